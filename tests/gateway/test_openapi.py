"""The OpenAPI file: it is valid, it says what is checked, and a generator makes a client of it that works."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from durasleep import Context, Durasleep
from durasleep.gateway.api.problems import KINDS
from durasleep.gateway.api.table import TABLE
from harness.servers import Server
from tests.gateway.described import FILE
from tests.gateway.gateways import Served, fetch, serving

DESCRIBED = json.loads(FILE.read_bytes())
BODIES = sorted({route.body for route in TABLE.routes if route.body is not None})


def test_the_file_is_valid_openapi() -> None:
    validate(DESCRIBED)
    names = [
        one["operationId"] for path in DESCRIBED["paths"].values() for name, one in path.items() if name != "parameters"
    ]
    assert len(set(names)) == len(names) == len(TABLE.routes)


def test_the_reference_explains_each_kind_of_problem() -> None:
    page = (FILE.parent / "http.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\S+)\n\n(\d+): ", page, re.MULTILINE)
    assert sections == [(name, str(kind.status)) for name, kind in KINDS.items()]


async def test_the_gateway_serves_the_file(gateway: Served) -> None:
    assert (await fetch(f"{gateway.url}/v1/openapi.json")).body == FILE.read_bytes()


FIELDS = sorted({name for body in BODIES for name in TABLE.schemas[body]["properties"]})
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.sampled_from(["", "attach", "x" * 300])
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.sampled_from(["a", "b/~", "function"]), PLAIN)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(BODIES), st.dictionaries(st.sampled_from([*FIELDS, "other"]), VALUES, max_size=4) | VALUES)
def test_a_body_is_refused_if_and_only_if_the_file_says_so(name: str, body: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DESCRIBED["components"]}
    errors = TABLE.checker.check(body, TABLE.schemas[name])
    assert (not errors) == Draft202012Validator(schema).is_valid(body), errors


@pytest.fixture
async def app(one_server: Server, namespace: str) -> AsyncIterator[Durasleep]:
    app = Durasleep(one_server.url, namespace=namespace)

    @app.workflow
    async def greet(ctx: Context, name: str) -> dict[str, str]:
        greeting = await ctx.receive("greeting")
        return {"text": f"{greeting} {name}"}

    del greet
    async with app, app.serving():
        yield app


async def test_a_client_that_is_generated_from_the_file_works(app: Durasleep, tmp_path: Path, monkeypatch: Any) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"post_hooks": [], "package_name_override": "generated_durasleep"}))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--config", str(config)]
    target = tmp_path / "generated_durasleep"
    made = await asyncio.to_thread(
        subprocess.run, [*command, "--path", str(FILE), "--output-path", str(target)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert "arning" not in made.stdout + made.stderr, made.stdout
    monkeypatch.syspath_prepend(tmp_path)
    client = importlib.import_module("generated_durasleep.client")
    models = importlib.import_module("generated_durasleep.models")
    api = "generated_durasleep.api"
    start, get = (importlib.import_module(f"{api}.executions.{name}_execution") for name in ("start", "get"))
    send = importlib.import_module(f"{api}.messages.send_message")
    search = importlib.import_module(f"{api}.executions.search_executions")

    async with (
        serving(app, token="0123456789abcdef") as served,
        client.AuthenticatedClient(base_url=served.url, token="0123456789abcdef") as http,
    ):
        body = models.Start(function="greet", args=["Ada"], timeout="1h")
        started = await start.asyncio("hello/1", client=http, body=body, idempotency_key="one")
        assert (started.id, str(started.disposition), str(started.state)) == ("hello/1", "created", "pending")
        message = models.Message(value="Good morning,")
        sent = await send.asyncio("hello/1", "greeting", client=http, body=message)
        assert str(sent.delivery) in ("delivered", "stored")
        found = await get.asyncio("hello/1", client=http, wait=20)
        assert (str(found.state), found.value) == ("resolved", {"text": "Good morning, Ada"})
        listed = await search.asyncio(client=http, status=[models.SearchExecutionsStatusItem.DONE])
        assert [one.id for one in listed.executions] == ["hello/1"]
        problem = await get.asyncio("nobody", client=http)
        assert (problem.status, problem.title) == (404, "There is no such execution or promise")
