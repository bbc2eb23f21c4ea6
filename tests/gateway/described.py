"""A client of `/v1` that holds every request and answer against docs/reference/openapi.json."""

from __future__ import annotations

import copy
import json
import re
from typing import Any, cast
from urllib.parse import quote

import httpx
from jsonschema import Draft202012Validator

from tests.service.workers import PATIENCE_S, ROOT

FILE = ROOT / "docs" / "reference" / "openapi.json"
TYPES = "https://durasleep.readthedocs.io/en/latest/reference/http.html#"


def _closed(schema: Any) -> Any:
    """The same, in which an object has only the fields that are described: an answer may not have more."""
    if isinstance(schema, list):
        return [_closed(one) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(one) for name, one in cast("dict[str, Any]", schema).items()}
    if "properties" in found and "additionalProperties" not in found and found.get("type") == "object":
        found["additionalProperties"] = False
    return found


class Described:
    """Finds the operation of a request, and checks both sides."""

    def __init__(self) -> None:
        self._described = json.loads(FILE.read_bytes())
        self._components = copy.deepcopy(self._described["components"])
        self._closed = _closed(self._components)

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """The operation of a request; None if no path or method fits."""
        for template in sorted(self._described["paths"], key=lambda one: (one.count("/"), len(one)), reverse=True):
            pattern = re.sub(r"\\\{\w+\\\}", "(?!:)[^/]+", re.escape(template))
            if re.fullmatch(pattern, path):
                return self._described["paths"][template].get(method.lower())
        return None

    def is_valid_body(self, operation: dict[str, Any], body: Any) -> bool:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return self._validator(schema, self._components).is_valid(body)

    def check_answer(self, operation: dict[str, Any], answer: httpx.Response) -> None:
        """Fails for a status, a type or a body that is not described."""
        described = operation["responses"].get(str(answer.status_code))
        assert described is not None, f"{operation['operationId']} may not answer {answer.status_code}: {answer.text}"
        content = described.get("content")
        if content is None:
            assert answer.content == b""
            return
        kind = answer.headers["content-type"]
        assert kind in content, f"{operation['operationId']} may not answer {kind}"
        self._validator(content[kind]["schema"], self._closed).validate(answer.json())
        if kind == "application/problem+json":
            word = answer.json()["type"].removeprefix(TYPES)
            assert f"`{word}`" in described["description"], f"{operation['operationId']} may not answer {word}"

    @staticmethod
    def _validator(schema: Any, components: Any) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": components})


class Caller:
    """Makes requests to one gateway."""

    def __init__(self, url: str, described: Described, headers: dict[str, str] | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, headers=headers)
        self._described = described

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **query: Any
    ) -> httpx.Response:
        """One request, with a body of bytes or JSON. An answer that is not described fails the test."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self._http.request(
            method, path, content=content, params=query or None, headers={**sent, **(headers or {})}
        )
        operation = self._described.operation(method, path.partition("?")[0])
        if operation is None:
            assert answer.status_code in (404, 405), answer.text
            return answer
        self._described.check_answer(operation, answer)
        if answer.is_success and content:
            assert self._described.is_valid_body(operation, json.loads(content)), "it took a body that is not described"
        return answer

    async def post(self, path: str, body: Any = None, *, key: str = "", **query: Any) -> httpx.Response:
        """A POST, perhaps with an Idempotency-Key."""
        return await self.ask("POST", path, body, headers={"Idempotency-Key": key} if key else None, **query)

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self.ask("GET", path, **query)

    async def start(self, id: str, function: str, *args: Any, wait: int = 0, **options: Any) -> httpx.Response:
        """Start an execution."""
        body = {"function": function, "args": list(args), **options}
        return await self.post(f"/v1/executions/{quote(id, safe='')}", body, wait=wait)


def word_of(answer: httpx.Response) -> str:
    """The kind of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["status"] == answer.status_code
    return found["type"].removeprefix(TYPES)
