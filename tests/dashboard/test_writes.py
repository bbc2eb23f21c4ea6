"""What people do in the dashboard: it is asked, done once, and kept; and nobody else can do it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from durasleep import Context, Durasleep, dashboard
from durasleep.dashboard.paths import quote_id
from tests.dashboard.conftest import BASE, TOKEN, Browse
from tests.dashboard.test_access import PROXY, SAME, csrf_in, log_in
from tests.service.workers import serving, until


@pytest.fixture
def app(app: Durasleep) -> Durasleep:
    @app.workflow
    async def sleeper(ctx: Context, span: str = "30d") -> str:
        await ctx.sleep(span)
        return "awake"

    @app.workflow
    async def broken(ctx: Context) -> None:
        raise ValueError("<script>alert(1)</script>")

    return app


async def confirm(browser: httpx.AsyncClient, path: str, **fields: str) -> httpx.Response:
    """Open the page that asks, and send its form."""
    page = await browser.get(path)
    assert page.status_code == 200, page.text
    return await browser.post(path, data=filled(page) | fields, headers={"origin": origin_of(browser)})


def filled(page: httpx.Response) -> dict[str, str]:
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    return hidden | dict(re.findall(r'<input id="f-\w+" name="(\w+)" value="([^"]*)"', page.text))


def origin_of(browser: httpx.AsyncClient) -> str:
    return str(browser.base_url).rstrip("/")


async def notice(browser: httpx.AsyncClient, answer: httpx.Response) -> str:
    assert answer.status_code == 303, answer.text
    page = await browser.get(answer.headers["location"])
    found = re.search(r'class="notice" role="status">(.*?)</p>', page.text)
    assert found, page.text
    assert 'class="notice"' not in (await browser.get(answer.headers["location"])).text  # it is shown once
    return found[1]


async def test_a_sleeper_is_woken_once_and_by_name(app: Durasleep, browse: Browse) -> None:
    browser = browse(writable=True, user="ada@desk")
    async with serving(app):
        await app.rpc("order 7/ü", "sleeper")
        await until(app, "order 7/ü", "suspended")
        path = f"/executions/{quote_id('order 7/ü')}/wake"
        page = await browser.get(path)
        form = filled(page)
        assert (await app.describe("order 7/ü")).status == "suspended"  # it was only asked
        answer = await browser.post(path, data=form, headers=SAME)
        assert await notice(browser, answer) == "order 7/ü: woken"
        assert (await browser.get(f"/executions/{quote_id('order 7/ü')}")).status_code == 200
        again = await browser.post(path, data=form, headers=SAME)  # a second click
        assert await notice(browser, again) == "This form was sent before: nothing more was done."
        assert await app.get("order 7/ü").result() == "awake"
        [entry] = await app.audit()
        assert (entry.by, entry.verb) == ("ada@desk", "wake")
        assert answer.headers["location"] == f"/executions/{quote_id('order 7/ü')}"


async def test_every_verb_of_an_execution(app: Durasleep, browse: Browse) -> None:
    browser = browse(writable=True)
    async with serving(app):
        await app.rpc("a", "sleeper")
        await until(app, "a", "suspended")
        steps: list[tuple[str, dict[str, str], str]] = [
            ("reschedule", {"due": "40d"}, "a: rescheduled"),
            ("fork", {"new": "b", "before": "1"}, "b: forked"),
            ("halt", {"reason": "to look"}, "a: halted"),
            ("resume", {}, "a: resumed"),
            ("send", {"channel": "news", "value": '{"n": 1}'}, "a: the message is stored until it is asked for"),
            ("cancel", {}, "a: canceling"),
        ]
        for verb, fields, said in steps:
            assert await notice(browser, await confirm(browser, f"/executions/a/{verb}", **fields)) == said
        await until(app, "a", "done")
        assert await notice(browser, await confirm(browser, "/executions/a/retry")) == "a: retrying"
        await until(app, "a", "suspended")
        assert await notice(browser, await confirm(browser, "/executions/a/force")) == "a: canceled"
        done = [one.verb for one in await app.audit()]
        assert done == ["force", "retry", "cancel", "send", "resume", "halt", "fork", "reschedule"]
        wrong = await confirm(browser, "/executions/a/reschedule", due="<b>soon")
        assert wrong.status_code == 400
        assert "&lt;b&gt;soon" in wrong.text
        assert "<b>soon" not in wrong.text
        assert (await browser.get("/executions/none/wake")).status_code == 404


async def test_many_are_changed_by_a_filter_and_kept_as_one_entry(app: Durasleep, browse: Browse) -> None:
    browser = browse(writable=True)
    async with serving(app):
        await app.rpc_many("broken", [(f"b{n}",) for n in range(30)])
        for n in range(30):
            await until(app, f"b{n}", "done")
        path = "/bulk/retry?status=failed&func=broken"
        page = await browser.get(path)
        assert (await browser.get("/executions?status=failed&func=broken")).text.count("/bulk/retry?") == 1
        assert "Retry 30 executions?" in page.text
        assert "and 10 more" in page.text
        assert await notice(browser, await confirm(browser, path)) == "retry: 30 done"
        [entry] = await app.audit()
        assert (entry.verb, entry.filter, entry.count) == ("retry", "--status failed --func broken", 30)
        said = await notice(browser, await confirm(browser, "/bulk/cancel?id=b0&id=b1&id=none"))
        assert said.startswith("cancel: ")
        assert "1 failed: " in said
        assert "none" in said
        assert "nothing to halt" in (await browser.get("/bulk/halt?func=nobody")).text
        for wrong in ("/bulk/retry", "/bulk/retry?id=b0&status=failed", "/bulk/retry?status=queued", "/bulk/x?id=b0"):
            assert (await browser.get(wrong)).status_code in (400, 404), wrong


async def test_groups_limits_and_schedules(app: Durasleep, browse: Browse) -> None:
    from durasleep import Limit

    @app.task(limit=Limit("per-customer", total=5))
    async def charge() -> None: ...

    browser = browse(writable=True, user="ada")
    await app.schedules.put("nightly", charge, cron="0 3 * * *")
    async with serving(app):
        steps = [
            ("/groups/workers/pause", "workers: paused"),
            ("/groups/workers/resume", "workers: resumed"),
            ("/limits/per-customer/pause", "per-customer: paused"),
            ("/limits/per-customer/resume", "per-customer: resumed"),
            ("/limits/per-customer/reset", "per-customer: reset"),
            ("/schedules/nightly/pause", "nightly: paused"),
            ("/schedules/nightly/resume", "nightly: resumed"),
            ("/schedules/nightly/delete", "nightly: deleted"),
        ]
        for path, said in steps[:-1]:
            assert await notice(browser, await confirm(browser, path)) == said
        assert (
            await notice(browser, await confirm(browser, "/limits/per-customer/set", total="9")) == "per-customer: set"
        )
        assert (await app.limits.get("per-customer")).total == 9
        said = await notice(browser, await confirm(browser, "/schedules/nightly/trigger"))
        assert said.startswith("nightly: started nightly@")
        assert await notice(browser, await confirm(browser, steps[-1][0])) == steps[-1][1]
        assert {one.by for one in await app.audit() if one.verb.startswith(("pause", "resume", "reset"))} == {"ada"}
        assert (await confirm(browser, "/limits/per-customer/set", total="many")).status_code == 400
    for gone in ("/groups/none/pause", "/limits/none/pause", "/schedules/none/trigger"):
        assert (await browser.get(gone)).status_code == 404


def writes_of(site: Any) -> list[str]:
    """The paths of all routes that take anything but reads, filled in."""
    found = [one.path for one in site.routes if isinstance(one, Route) and (one.methods or set()) - {"GET", "HEAD"}]
    return [re.sub(r"\{\w+(:\w+)?\}", "wake" if "/bulk/" in one else "a", one) for one in found]


async def test_a_reader_can_write_nothing(app: Durasleep, browse: Browse) -> None:
    site = dashboard.create_app(app)
    browser = browse(site)
    paths = writes_of(site)
    assert len(paths) >= 20
    await app.rpc("a", "sleeper", delay="30d")
    for path in paths:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            answer = await browser.request(method, path, headers=SAME, data={"once": "1", "csrf": ""})
            assert answer.status_code in (403, 405), (method, path, answer.status_code)
    assert (await app.describe("a")).status == "delayed"
    assert await app.audit() == []
    assert "<form" not in (await browser.get("/executions/a")).text


async def test_only_a_form_of_the_same_session_writes(app: Durasleep, browse: Browse) -> None:
    site = dashboard.create_app(app, writable=True, token=TOKEN)
    browser, other = browse(site), browse(site)
    await log_in(browser)
    await log_in(other, name="eve")
    await app.rpc("a", "sleeper", delay="30d")
    path = "/executions/a/wake"
    form, stolen = filled(await browser.get(path)), filled(await other.get(path))

    async def refused(headers: dict[str, str], data: dict[str, str] | None = None, status: int = 403) -> None:
        answer = await browser.post(path, data=form if data is None else data, headers=headers)
        assert answer.status_code == status, (headers, data, answer.text)

    await refused({})  # no page says that it comes from here
    for origin in ("null", "http://localhost:8091", "http://evil.example", "http://localhost:8090.evil.example"):
        await refused({"origin": origin})
        await refused({"origin": origin, "sec-fetch-site": "same-origin"})
    for where in ("cross-site", "same-site", "none"):
        await refused({"sec-fetch-site": where})
        await refused(SAME | {"sec-fetch-site": where})
    await refused(SAME, {"once": "1"})
    await refused(SAME, form | {"csrf": stolen["csrf"]})
    await refused(SAME, form | {"csrf": "é"})
    answer = await browser.post(path, json=form, headers=SAME)
    assert answer.status_code == 415
    answer = await browser.post(path, content=b"csrf=%ff%", headers=SAME | {"content-type": "text/plain"})
    assert answer.status_code == 415
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    answer = await browser.post(path, content=b"x=1&" * 300_000, headers=SAME | urlencoded)
    assert answer.status_code in (400, 413)
    for override in ({"x-http-method-override": "POST"}, {"x-method": "POST"}):
        await browser.get(path, headers=SAME | override, params=form | {"_method": "POST"})
    await browser.head(path, headers=SAME)
    assert (await app.describe("a")).status == "delayed"
    assert await app.audit() == []
    assert (await browser.post(path, data=form, headers={"sec-fetch-site": "same-origin"})).status_code == 303
    assert (await app.describe("a")).status != "delayed"


async def test_behind_a_proxy_the_audit_has_who_it_names(app: Durasleep, browse: Browse) -> None:
    await app.rpc("a", "sleeper", delay="30d")
    site = dashboard.create_app(app, writable=True, **PROXY)
    browser = browse(site, peer="10.0.0.1", base="https://ui.example")
    browser.headers.update({"x-user": "ada", "x-forwarded-proto": "https"})
    page = await browser.get("/executions/a/cancel")
    assert "Secure" in page.headers["set-cookie"]
    browser.headers["x-user"] = "eve"  # the form of one person is of no use to another
    headers = {"origin": "https://ui.example"}
    assert (await browser.post("/executions/a/cancel", data=filled(page), headers=headers)).status_code == 403
    await confirm(browser, "/executions/a/cancel")
    assert [(one.by, one.verb) for one in await app.audit()] == [("eve", "cancel")]


async def test_mounted_in_another_application_it_writes_below_its_path(app: Durasleep, browse: Browse) -> None:
    await app.rpc("a", "sleeper", delay="30d")
    web = Starlette(routes=[Mount("/ops", dashboard.create_app(app, writable=True, allowed_hosts=["example.org"]))])
    browser = browse(web, base="https://example.org", peer="192.0.2.7")
    answer = await confirm(browser, "/ops/executions/a/wake")
    assert answer.headers["location"] == "/ops/executions/a"
    assert all("Path=/ops;" in cookie for cookie in answer.headers.get_list("set-cookie"))
    assert await notice(browser, answer) == "a: woken"
    page = await browser.get("/ops/executions/a/wake")
    other = await browser.post("/ops/executions/a/wake", data=filled(page), headers={"origin": "http://example.org"})
    assert other.status_code == 403


async def test_who_has_logged_out_cannot_write(app: Durasleep, browse: Browse) -> None:
    await app.rpc("a", "sleeper", delay="30d")
    browser = browse(writable=True, token=TOKEN)
    await log_in(browser)
    form = filled(await browser.get("/executions/a/wake"))
    cookies = dict(browser.cookies)
    await browser.post("/logout", data={"csrf": csrf_in(await browser.get("/"))}, headers={"origin": BASE})
    browser.cookies.update(cookies)
    answer = await browser.post("/executions/a/wake", data=form, headers=SAME)
    assert answer.headers["location"] == "/login"
    assert await app.audit() == []
