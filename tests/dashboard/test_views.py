"""Each page shows what is there, to somebody without JavaScript, too; and nothing that is stored becomes markup."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from durasleep import Context, Durasleep, Limit, dashboard
from durasleep.dashboard.paths import quote_id, unquote_id
from durasleep.dashboard.views import VIEWS
from durasleep.errors import UsageError
from harness.servers import Server
from tests.dashboard.conftest import BASE, Browse
from tests.service.workers import eventually, serving

HOSTILE = ("a/b?c#d%41 e=2F", "..", "<script>alert(1)</script>", "größe-日本", 'x" onload="y', "left\u202eright")
PLAIN = tuple(view.path for view in VIEWS if "{" not in view.path)


async def nap(ctx: Context, seconds: float, secret: str = "") -> str:
    ctx.publish(status=f"{secret} sleeps")
    await ctx.run(pack, secret)
    await ctx.sleep(seconds)
    return secret


async def pack(secret: str) -> str:
    return f"packed {secret}"


async def fail(text: str) -> None:
    raise ValueError(text)


async def listen(ctx: Context) -> None:
    await ctx.promise(name="ears", timeout="30d")


@pytest.fixture
async def site(one_server: Server, namespace: str) -> AsyncIterator[Durasleep]:
    """A namespace with something for each page."""
    app = Durasleep(one_server.url, namespace=namespace, by="ada")
    app.workflow(nap)
    app.workflow(listen)
    app.task(pack)
    app.task(limit=Limit("per-customer", total=8))(fail)
    async with app, serving(app, name="w1"):
        for id in HOSTILE:
            await app.options(labels={"customer": "<7>"}).rpc(id, nap, 30 * 86_400, secret="the bank's secret")
        with pytest.raises(ValueError, match="boom"):
            await (await app.rpc("bad-1", fail, "<i>boom</i>")).result(20)
        await app.rpc("listens", listen)
        await app.send("listens", "talk", "hello")
        await app.rpc("stopped", nap, 60)
        await app.halt("stopped", "<b>by hand</b>")
        await app.schedules.put("nightly", "fail", cron="30 2 * * *", zone="Europe/Berlin", args=["x"])
        await eventually(lambda: _asleep(app), "all to sleep")
        yield app
        await app.schedules.delete("nightly")
        for id in (*HOSTILE, "listens", "stopped"):
            await app.cancel(id, force=True)


async def _asleep(app: Durasleep) -> bool:
    found = await app.search(status="suspended")
    return len([one for one in found if one.due_at_ms or one.timeout_at_ms]) >= len(HOSTILE)


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text))


async def test_every_page_shows_what_is_there(site: Durasleep, browse: Browse) -> None:
    browser = browse(dashboard.create_app(site))
    pages = {path: await browser.get(path) for path in PLAIN}
    for path, said in {
        "/": ("halted", "bad-1", "ValueError: &lt;i&gt;boom&lt;/i&gt;", "&lt;b&gt;by hand&lt;/b&gt;"),
        "/executions": ("stopped", "listens", "suspended", "customer=&lt;7&gt;", "in 29 d 23 h"),
        "/calendar": ("Due next", "nightly", "later"),
        "/groups": ("w1", "workers", "Last beat"),
        "/limits": ("per-customer", "8 in all"),
        "/schedules": ("nightly", "30 2 * * *", "Europe/Berlin"),
        "/mailboxes": ("listens",),
        "/published": ("Values are hidden", "status"),
        "/audit": ("ada", "halt", "stopped"),
        "/partitions": ("Next due",),
        "/doctor": ("persistence",),
    }.items():
        shown = text_of(pages[path])
        assert [word for word in said if word not in shown] == [], path
        assert "the bank" not in shown
    for path, page in pages.items():
        tags = tags_of(page.text)
        assert [tag for tag, _ in tags].count("h1") == 1, path
        names = {name for _, attributes in tags for name in attributes}
        assert not [name for name in names if name == "style" or name.startswith("on")], path
        assert not [tag for tag, attributes in tags if tag == "style" or (tag == "script" and "src" not in attributes)]
        links = [value for _, each in tags for name, value in each.items() if name in ("href", "src", "action")]
        assert [link for link in links if not link.startswith(("/", "#")) or link.startswith("//")] == [], path


def tags_of(page: str) -> list[tuple[str, dict[str, str]]]:
    """Each tag of a page, with its attributes."""
    found: list[tuple[str, dict[str, str]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, {name: value or "" for name, value in attrs}))

    Parser().feed(page)
    return found


async def test_an_execution_is_shown_with_its_timeline_and_a_countdown(site: Durasleep, browse: Browse) -> None:
    hidden = await browse(dashboard.create_app(site)).get("/executions/=2E=2E")
    shown = await browse(dashboard.create_app(site, show_values=True)).get("/executions/=2E=2E")
    assert "the bank" not in hidden.text
    assert "packed the bank&#39;s secret" in shown.text
    text = text_of(hidden)
    assert "29 d 23 h left" in text
    assert "step pack" in text
    assert "The same as a table" in text
    assert 'class="due s-suspended"' in hidden.text
    failed = text_of(await browse(dashboard.create_app(site)).get("/executions/bad-1"))
    assert "rejected" in failed
    assert "ValueError: &lt;i&gt;boom&lt;/i&gt;" in failed


async def test_ids_come_back_from_their_links_whatever_they_are(site: Durasleep, browse: Browse) -> None:
    browser = browse(dashboard.create_app(site))
    listed = (await browser.get("/executions")).text
    for id in HOSTILE:
        path = f"/executions/{quote_id(id)}"
        assert f'href="{path}"' in listed
        assert unquote_id(quote_id(id)) == id
        assert "suspended" in text_of(await browser.get(path))
    assert "<script>alert" not in listed
    assert "\u202e" not in re.sub(r'value="[^"]*"|aria-label="[^"]*"', "", listed)
    assert (await browser.get("/executions/nobody")).status_code == 404


async def test_filters_find_and_explain(site: Durasleep, browse: Browse) -> None:
    browser = browse(dashboard.create_app(site))
    for query, found, missed in (
        ({"id": "bad"}, "bad-1", "stopped"),
        ({"id": "a/b?c#"}, "a/b?c#d%41 e=2F", "bad-1"),
        ({"status": "halted"}, "stopped", "listens"),
        ({"status": "failed"}, "bad-1", "stopped"),
        ({"func": "listen"}, "listens", "stopped"),
        ({"label": "customer=<7>"}, "..", "listens"),
        ({"since": "1h", "group": "workers"}, "listens", "bad-1"),
    ):
        rows = re.findall(r'<tr id="e-([^"]*)"', (await browser.get("/executions", params=query)).text)
        assert quote_id(found) in rows, query
        assert quote_id(missed) not in rows, query
    for query, said in (
        ({"label": "x"}, "write name=value"),
        ({"since": "soon"}, "soon"),
        ({"status": "odd"}, "odd"),
        ({"page": "0"}, "use a number from 1 to 32"),
    ):
        assert said in text_of(await browser.get("/executions", params=query)), query
    assert (await browser.get("/calendar", params={"of": "century"})).status_code == 400


async def test_lists_have_pages(one_server: Server, namespace: str, browse: Browse) -> None:
    async with Durasleep(one_server.url, namespace=namespace) as app:
        many = [(f"n-{number:03}", 1) for number in range(120)]
        await app.options(delay="30d").rpc_many("nap", many)
        browser = browse(dashboard.create_app(app))
        seen: list[str] = []
        for page in (1, 2, 3):
            answer = await browser.get("/executions", params={"page": page, "status": "delayed"})
            seen += re.findall(r'<tr id="e-([^"]*)"', answer.text)
            assert ('rel="next"' in answer.text) == (page < 3)
        assert sorted(seen) == [id for id, _ in many]
        for id, _ in many:
            await app.cancel(id, force=True)


async def test_links_stay_below_the_path_where_it_is_mounted(site: Durasleep, browse: Browse) -> None:
    inner = dashboard.create_app(site)
    browser = browse(Starlette(routes=[Mount("/ops/sleep", inner)]), base=BASE)
    page = await browser.get("/ops/sleep/executions/=2E=2E?x=1")
    links = re.findall(r'(?:href|src|action|formaction|data-live)="([^"]*)"', page.text)
    assert [link for link in links if not link.startswith(("/ops/sleep/", "#"))] == []
    assert "/ops/sleep/live/executions/=2E=2E?x=1" in links
    assert (await browser.get("/ops/sleep/static/live.js")).status_code == 200


async def test_an_outage_is_said_on_the_page(namespace: str, browse: Browse) -> None:
    async with asyncio.timeout(20):
        app = Durasleep("redis://127.0.0.1:1/0", namespace=namespace)
        answer = await browse(dashboard.create_app(app)).get("/")
        await app.aclose()
    assert answer.status_code == 503
    assert "Redis" in answer.text


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_EXTRA", ("starlette", "no_such_library"))
    with pytest.raises(UsageError, match=r"pip install 'durasleep\[ui\]'"):
        dashboard.create_app(Durasleep())
