"""Pages stay current: each view is read once for all who look at it, and only changes are sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from sse_starlette.sse import AppStatus

from durasleep import Durasleep, dashboard
from durasleep.dashboard import live, serving, site
from durasleep.dashboard.live import LiveViews, Stop, TooMany, Update
from harness.servers import MakeServer, Server
from tests.service.workers import eventually


@asynccontextmanager
async def served(app: Durasleep) -> AsyncGenerator[tuple[httpx.AsyncClient, LiveViews]]:
    """A real server of a dashboard, and a browser of it."""
    made = dashboard.create_app(app)
    AppStatus.should_exit = False  # an older sse-starlette remembers that a server has stopped in this process
    socket = serving.listen("127.0.0.1", 0)
    server = serving.server(made)
    running = asyncio.create_task(server.serve(sockets=[socket]))
    views: LiveViews = made.state.site.live
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{socket.getsockname()[1]}", timeout=20) as browser:
            await eventually(lambda: server.started, "the server")
            yield browser, views
    finally:
        views.close()
        server.should_exit = True
        await running


async def events(lines: AsyncIterator[str]) -> AsyncGenerator[tuple[str, str]]:
    """The kind and the text of each event of a stream."""
    kind, data = "", list[str]()
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif not line and data:
            yield kind, "\n".join(data)
            kind, data = "", []


async def until(stream: AsyncGenerator[tuple[str, str]], pattern: str) -> tuple[str, str]:
    async with asyncio.timeout(20):
        async for one in stream:
            if re.search(pattern, one[1]):
                return one
    raise AssertionError(pattern)


async def test_a_change_is_sent_and_a_stop_ends_the_streams(one_server: Server, namespace: str) -> None:
    async with Durasleep(one_server.url, namespace=namespace) as app:
        await app.options(delay="30d").rpc("x/1", "nap", 1)
        async with served(app) as (browser, views):
            page = await browser.get("/executions/x=2F1")
            [path] = re.findall(r'data-live="([^"]*)"', page.text)
            async with browser.stream("GET", path) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                stream = events(answer.aiter_lines())
                assert (await until(stream, "delayed"))[0] == "message"
                await app.halt("x/1", "<b>look</b> here")
                assert "&lt;b&gt;look" in (await until(stream, "halted"))[1]
                async with asyncio.timeout(5):
                    views.close()
                    assert [one async for one in stream if one[0] == "trouble"] == []
        await app.cancel("x/1", force=True)


async def test_an_outage_is_shown_and_overcome(
    make_server: MakeServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PATIENCE_S", 0.5)
    server = make_server()
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    async with (
        Durasleep(server.url, namespace=namespace) as app,
        served(app) as (browser, _),
        browser.stream("GET", "/live/executions") as answer,
    ):
        stream = events(answer.aiter_lines())
        await until(stream, "None")
        server.stop()
        assert (await until(stream, "Redis"))[0] == "trouble"
        assert (await browser.get("/executions")).status_code == 503
        make_server(directory=server.directory, port=port)
        assert (await until(stream, "None"))[0] == "message"


async def test_beyond_the_limits_a_page_works_but_is_not_kept_current(
    one_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STREAMS_MAX", 1)
    async with Durasleep(one_server.url, namespace=namespace) as app, served(app) as (browser, _):
        async with browser.stream("GET", "/live/") as answer:
            await until(events(answer.aiter_lines()), "running")
            refused = await browser.get("/live/")
            assert (refused.status_code, "reload" in refused.text) == (503, True)
            assert (await browser.get("/")).status_code == 200
        await eventually(lambda: _is_free(browser), "room for another stream")


async def _is_free(browser: httpx.AsyncClient) -> bool:
    async with browser.stream("GET", "/live/") as answer:
        return answer.status_code == 200


async def test_a_view_is_read_once_for_all_and_not_at_all_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_S", 0.0)
    monkeypatch.setattr(live, "VIEWS_MAX", 2)
    monkeypatch.setattr(live, "_SHARE", 0)
    views, reads, shown = LiveViews(), 0, "first"

    async def read() -> Update:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return Update(shown)

    streams = [views.stream("a", read, Stop()) for _ in range(3)]
    assert [await anext(one) for one in streams] == [Update("first")] * 3
    before = reads
    await eventually(lambda: reads > before + 5, "it to be read again")
    waiting = [asyncio.ensure_future(anext(one)) for one in streams]
    await eventually(lambda: reads > before + 10, "it to be read again")
    assert not any(one.done() for one in waiting)  # what has not changed is not sent
    shown = "second"
    assert await asyncio.gather(*waiting) == [Update("second")] * 3
    other = views.stream("b", read, Stop())
    await anext(other)
    with pytest.raises(TooMany, match="2 views"):
        await anext(views.stream("c", read, Stop()))
    for one in (*streams, other):
        await one.aclose()
    before = reads
    for _ in range(20):
        await asyncio.sleep(0)
    assert reads <= before + 1
    stop = Stop()
    last = views.stream("a", read, stop)
    await anext(last)
    stop.set()
    assert [one async for one in last] == []
    views.close()
    assert [one async for one in views.stream("a", read, Stop())] == []
