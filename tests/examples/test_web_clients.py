"""The test clients of the frameworks with the fixtures of pytest: weeks pass in a moment, with the real worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient as FastAPIClient
from litestar.testing import AsyncTestClient, TestClient

from durasleep import StoreRefused
from durasleep.testing import Env, SyncEnv
from examples.web.durable import app
from examples.web.fastapi.main import api as fastapi_api
from examples.web.fastapi.main import get_durasleep
from examples.web.flask.shop import create_app, durasleep, write_mail
from examples.web.litestar.main import api as litestar_api

MakeSyncEnv = Callable[..., AbstractContextManager[SyncEnv]]
ORDER = {"customer": "ada", "parcels": 2}
PAID = {"event": "evt-1", "order": "tea-1", "cents": 900}
KEY = {"idempotency-key": "tea-1"}


def weeks_pass(env: SyncEnv, client: Any) -> None:
    """With a sync client of a framework whose application runs in another event loop, or in none."""
    assert client.post("/orders", json=ORDER, headers=KEY).status_code == 202
    env.run_until_idle()
    assert json_of(client.get("/orders/tea-1"))["status"] == "waiting for payment"
    assert json_of(client.post("/payments", json=PAID)) == {"payment": "delivered"}
    assert json_of(client.post("/payments", json=PAID)) == {"payment": "duplicate"}
    env.skip(days=7)
    assert json_of(client.get("/orders/tea-1")) == {"state": "resolved", "status": "shipped", "progress": [2, 2]}
    assert '"resolved"' in client.get("/orders/tea-1/events").text
    assert client.get("/orders/tea-2").status_code == 404
    assert client.post("/payments", json={**PAID, "event": "evt-2"}).status_code == 409


def json_of(answer: Any) -> Any:
    return answer.get_json() if hasattr(answer, "get_json") else answer.json()


async def weeks_pass_async(env: Env, client: Any) -> None:
    """With an async client, whose application runs in the event loop of the test."""
    assert (await client.post("/orders", json=ORDER, headers=KEY)).status_code == 202
    await env.run_until_idle()
    assert (await client.post("/payments", json=PAID)).json() == {"payment": "delivered"}
    await env.skip(days=7)
    assert (await client.get("/orders/tea-1")).json()["state"] == "resolved"


def test_fastapi_in_a_sync_test(durasleep_sync_env: MakeSyncEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_WORKER", "embedded")  # the worker of the test serves the group, so it starts no other
    with durasleep_sync_env(app) as env, FastAPIClient(fastapi_api) as client:
        weeks_pass(env, client)


async def test_fastapi_in_an_async_test(durasleep_env: Callable[..., Any]) -> None:
    transport = httpx.ASGITransport(fastapi_api)
    async with (
        durasleep_env(app) as env,
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        await weeks_pass_async(env, client)


def test_litestar_in_a_sync_test(durasleep_sync_env: MakeSyncEnv) -> None:
    with durasleep_sync_env(app) as env, TestClient(litestar_api) as client:
        weeks_pass(env, client)


async def test_litestar_in_an_async_test(durasleep_env: Callable[..., Any]) -> None:
    async with durasleep_env(app) as env, AsyncTestClient(litestar_api) as client:
        await weeks_pass_async(env, client)


def test_flask(durasleep_sync_env: MakeSyncEnv) -> None:
    with durasleep_sync_env(durasleep) as env:
        weeks_pass(env, create_app(SHOP_NAME="Tea and more").test_client())
        mail = env.run(write_mail, "ada", "Hello")
        assert mail == "Tea and more to ada: Hello"  # a task has the context of the application


def test_a_view_without_a_worker(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class NoRedis:
        async def view(self, id: str) -> None:
            raise StoreRefused(f"no permission to read {id}")

    monkeypatch.setitem(fastapi_api.dependency_overrides, get_durasleep, NoRedis)
    answer = FastAPIClient(fastapi_api).get("/orders/tea-1")
    assert answer.status_code == 503
    assert "permission" not in answer.text
    assert "no permission to read order-tea-1" in caplog.text
