"""Who may look at the dashboard, and that nobody else can, whatever they try."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
import time_machine
from starlette.applications import Starlette
from starlette.routing import Mount

from durasleep import Durasleep, UsageError, dashboard
from durasleep.dashboard.access import POLICY
from tests.dashboard.conftest import BASE, TOKEN, Browse, served

SAME = {"origin": BASE}
PROXY: dict[str, Any] = {"user_header": "X-User", "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]}


async def log_in(browser: httpx.AsyncClient, token: str = TOKEN, **fields: str) -> httpx.Response:
    origin = str(browser.base_url).rstrip("/")
    return await browser.post("/login", data={"token": token, **fields}, headers={"origin": origin})


def csrf_in(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text)
    assert found, page.text
    return found[1]


async def test_every_answer_is_protected(browse: Browse) -> None:
    browser = browse()
    for path in ("/", "/executions/none", "/nowhere", "/static/ui.css", "/static/none", "/live/nowhere"):
        answer = await browser.get(path)
        assert answer.headers["content-security-policy"] == POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers.get("cache-control") == (None if path == "/static/ui.css" else "no-store"), path
        assert "set-cookie" not in answer.headers  # no session until a form needs one
    refused = await browser.get("/", headers={"host": "evil.example"})
    assert refused.headers["content-security-policy"] == POLICY


@pytest.mark.parametrize(
    ("peer", "host", "status"),
    [
        ("127.0.0.1", "localhost:8090", 200),
        ("127.0.0.1", "LOCALHOST.", 200),
        ("::1", "[::1]:8090", 200),
        ("::ffff:127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "rebound.example:8090", 403),  # its name points to this machine: DNS rebinding
        ("127.0.0.1", "localhost.evil.example", 403),
        ("127.0.0.1", "localhost@evil.example", 400),
        ("127.0.0.1", "localhost/evil.example", 400),
        ("127.0.0.1", "", 400),
        ("192.0.2.7", "localhost:8090", 403),  # from another machine, whatever it calls us
        ("192.0.2.7", "ui.example:8090", 200),  # unless this name is allowed
    ],
)
async def test_without_login_it_is_open_to_its_own_machine_by_its_own_names(
    browse: Browse, peer: str, host: str, status: int
) -> None:
    answer = await browse(peer=peer, allowed_hosts=["ui.example"]).get("/", headers={"host": host})
    assert answer.status_code == status, answer.text


async def test_without_login_a_proxy_opens_it_to_nobody(browse: Browse) -> None:
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        assert (await browse().get("/", headers={header: "192.0.2.7"})).status_code == 403


async def test_a_token_is_asked_for_everywhere_but_for_the_files_of_the_form(browse: Browse) -> None:
    browser = browse(token=TOKEN, writable=True)
    paths = ("/executions/x", "/%2e/", "//", "/static", "/STATIC/ui.css", "/login/x", "/x/static/")
    for path in ("/", *paths):
        answer = await browser.get(path)
        assert answer.status_code == 303, (path, answer.text)
        assert answer.headers["location"].startswith("/login")
    for path in ("/live/", "/live/executions"):
        assert (await browser.get(path, headers={"accept": "text/event-stream"})).status_code == 401
    for path in ("/static/../", "/static/%2e%2e/executions", "/static%2f..%2f", "/static/..%2f..%2f__init__.py"):
        assert (await browser.get(path)).status_code != 200
    assert (await browser.get("/static/ui.css")).status_code == 200
    assert (await browser.get("/login")).status_code == 200
    assert (await browser.head("/")).status_code == 303


async def test_logging_in_and_out(browse: Browse) -> None:
    browser = browse(token=TOKEN)
    answer = await log_in(browser, name="Ada", next="/executions?status=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/executions?status=failed")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/;" in cookie
    assert "Secure" not in cookie
    page = await browser.get("/")
    assert page.status_code == 200
    assert "Ada (token)" in page.text

    stolen = dict(browser.cookies)
    wrong = await browser.post("/logout", data={"csrf": "0"}, headers=SAME)
    assert wrong.status_code == 403
    assert (await browser.post("/logout", data={"csrf": csrf_in(page)}, headers=SAME)).status_code == 303
    assert not browser.cookies
    browser.cookies.update(stolen)
    assert (await browser.get("/")).status_code == 303  # of no use any more, wherever it is


async def test_logging_out_ends_what_is_kept_current(app: Durasleep) -> None:
    async with served(app, token=TOKEN) as origin, httpx.AsyncClient(base_url=origin, timeout=30) as browser:
        await log_in(browser)
        form = {"csrf": csrf_in(await browser.get("/"))}
        async with browser.stream("GET", "/live/") as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: message"
            await browser.post("/logout", data=form, headers={"origin": origin})
            async for _ in lines:
                pass  # it ends
        assert (await browser.get("/live/")).status_code == 401


async def test_a_session_ends_after_twelve_hours_and_with_its_token(browse: Browse) -> None:
    browser = browse(token=TOKEN)
    await log_in(browser)
    kept = dict(browser.cookies)
    other = browse(token=TOKEN + ", a new one")
    other.cookies.update(kept)
    assert (await other.get("/")).status_code == 303
    with time_machine.travel("2050-01-01"):
        browser.cookies.update(kept)
        assert (await browser.get("/")).status_code == 303


async def test_a_login_leads_to_no_other_site(browse: Browse) -> None:
    for to in (
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/a\r\nset-cookie: x=1",
        "javascript:x",
        "",
    ):
        assert (await log_in(browse(token=TOKEN), next=to)).headers["location"] == "/"
    evil = await browse(token=TOKEN).post(
        "/login", data={"token": TOKEN}, headers={"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    )
    assert evil.status_code == 403
    assert "set-cookie" not in evil.headers


async def test_tokens_cannot_be_guessed_quickly(browse: Browse) -> None:
    site = browse(token=TOKEN)._transport.app  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    thief, owner = browse(site, peer="2001:db8::1"), browse(site, peer="2001:db8:1::1")
    for _ in range(5):
        assert (await log_in(thief, "wrong")).status_code == 401
    refused = await log_in(browse(site, peer="2001:db8::2"))  # the same network; not even the right one is looked at
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    bearer = await thief.get("/", headers={"authorization": f"Bearer {TOKEN}"})
    assert bearer.status_code == 429
    assert (await log_in(owner)).status_code == 303
    with pytest.raises(UsageError, match="can be guessed"):
        browse(token="short")


async def test_programs_send_the_token_and_cannot_write(browse: Browse) -> None:
    browser = browse(token=TOKEN, writable=True)
    assert (await browser.get("/", headers={"authorization": "Bearer nothing"})).status_code == 401
    assert (await browser.get("/", headers=[(b"authorization", "Bearer tökén".encode())])).status_code == 401
    answer = await browser.get("/", headers={"authorization": f"bearer {TOKEN}"})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    write = await browser.post("/executions/x/wake", headers={"authorization": f"Bearer {TOKEN}"} | SAME)
    assert write.status_code == 403


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("10.1.2.3", [("X-User", "ada")], 200),
        ("fd00::7", [("X-User", "Zoë")], 200),
        ("::ffff:10.1.2.3", [("X-User", "ada")], 200),
        ("192.0.2.7", [("X-User", "ada")], 403),
        ("2001:db8::1", [("X-User", "ada")], 403),
        ("192.0.2.7", [("X-User", "ada"), ("X-Forwarded-For", "10.1.2.3")], 403),
        ("10.1.2.3", [], 403),
        ("10.1.2.3", [("X-User", "")], 403),
        ("10.1.2.3", [("X-User", "ada"), ("X-User", "root")], 403),
        ("10.1.2.3", [("X-User", "a" * 300)], 403),
    ],
)
async def test_a_proxy_names_who_looks(browse: Browse, peer: str, headers: list[tuple[str, str]], status: int) -> None:
    answer = await browse(peer=peer, base="https://ui.example", **PROXY).get(
        "/", headers=[(name.encode(), value.encode()) for name, value in headers]
    )
    assert answer.status_code == status, answer.text
    if status == 200:
        assert headers[0][1] in answer.text


async def test_what_cannot_be_trusted_is_refused_at_the_start(app: Durasleep) -> None:
    for options in (
        {"user_header": "X-User"},
        {"trusted_proxies": ["10.0.0.0/8"]},
        {"user_header": "X-User", "trusted_proxies": ["10.0.0.1/8"]},
        {"user_header": "X-User", "trusted_proxies": ["proxy.example"]},
        {"user_header": "X-User", "trusted_proxies": ["::/0"]},
        {"user_header": "X User", "trusted_proxies": ["::1"]},
        {"allowed_hosts": ["ui example"]},
        {"token": "\udcff" * 20},
        {"user": "a\nb"},
    ):
        with pytest.raises(UsageError):
            dashboard.create_app(app, **options)  # pyright: ignore[reportArgumentType]


async def test_mounted_behind_tls_links_and_cookies_stay_below_its_path(app: Durasleep, browse: Browse) -> None:
    site = Starlette(routes=[Mount("/ops/durasleep", dashboard.create_app(app, token=TOKEN))])
    browser = browse(site, base="https://example.org", peer="192.0.2.7")
    refused = await browser.get("/ops/durasleep/executions?status=failed")
    assert refused.headers["location"] == "/ops/durasleep/login?next=%2Fexecutions%3Fstatus%3Dfailed"
    form = await browser.get(refused.headers["location"])
    assert 'action="/ops/durasleep/login"' in form.text
    assert 'value="/executions?status=failed"' in form.text
    answer = await browser.post(
        "/ops/durasleep/login",
        data={"token": TOKEN, "next": "/executions?status=failed"},
        headers={"origin": "https://example.org"},
    )
    assert answer.headers["location"] == "/ops/durasleep/executions?status=failed"
    assert "Path=/ops/durasleep;" in answer.headers["set-cookie"]
    assert "Secure" in answer.headers["set-cookie"]
    assert (await browser.get("/ops/durasleep/")).status_code == 200


async def test_a_link_from_another_site_finds_the_session(browse: Browse) -> None:
    browser = browse(token=TOKEN)
    followed = await browser.get("/executions/x", headers={"sec-fetch-site": "cross-site"})  # without its Strict cookie
    assert followed.status_code == 200
    assert 'http-equiv="refresh"' in followed.text
    again = await browser.get("/executions/x", headers={"sec-fetch-site": "same-origin"})
    assert again.status_code == 303
