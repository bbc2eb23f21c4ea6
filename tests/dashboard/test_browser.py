"""The dashboard in a real browser: what people see, reach with the keyboard, and do; and what never happens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from durasleep import Durasleep
from durasleep.dashboard.paths import quote_id
from harness.lively import HOSTILE_ID, ORDER, lively
from harness.servers import Server
from tests.dashboard.conftest import TOKEN, served, serving_asgi
from tests.service.workers import WorkerProcess, Workers, until

if TYPE_CHECKING:
    from harness.chromium import Chromium, Tab

pytestmark = pytest.mark.long

VIEWS = (
    "/",
    "/executions",
    "/executions?status=failed",
    f"/executions/{ORDER}",
    f"/executions/{quote_id(HOSTILE_ID)}",
    "/calendar",
    "/groups",
    "/limits",
    "/schedules",
    "/schedules/nightly",
    "/mailboxes",
    "/published",
    "/audit",
    "/partitions",
    "/doctor",
    "/nowhere",
    f"/executions/{ORDER}/send",
    "/bulk/halt?func=order",
    "/limits/per-shop/set",
)
"""Every view, its problems, and pages that ask."""
PHONE = {"width": 390, "height": 844}
MISSING = re.compile(r"Failed to load resource.*40[04]")  # what the console has of a page that is not there


@pytest.fixture
def workers(one_server: Server, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    """Starts worker processes."""
    made = Workers(one_server.url, namespace, tmp_path)
    yield made
    made.clean_up()


@pytest.mark.leaves_keys("its worker leaves executions that run and wait")
async def test_every_view_reads_well_and_stays_with_its_origin(
    chromium: Chromium, one_server: Server, namespace: str
) -> None:
    async def walk(tab: Tab) -> list[str]:
        found: list[str] = []
        for path in VIEWS:
            await tab.page.set_viewport_size({"width": 1280, "height": 800})
            await tab.open(path)
            await tab.page.emulate_media(color_scheme="light")
            found += await tab.axe()
            await tab.page.emulate_media(color_scheme="dark")
            found += [f"dark {one}" for one in await tab.axe("color-contrast", "link-in-text-block")]
            await tab.page.set_viewport_size(PHONE)  # pyright: ignore[reportArgumentType]
            width = await tab.evaluate("document.documentElement.scrollWidth")
            if width > PHONE["width"]:
                found.append(f"{path}: on a phone it is {width} px wide")
        tab.problems = [one for one in tab.problems if not MISSING.search(one)]
        return found

    async with lively(one_server.url, namespace) as app, served(app, writable=True, show_values=True) as origin:
        assert not (found := await chromium.use(origin, walk)), "\n".join(found)


@pytest.mark.leaves_keys("nothing ends the executions")
async def test_everything_is_reached_with_the_keyboard(chromium: Chromium, app: Durasleep) -> None:
    for number in range(3):
        await app.rpc(f"order-{number}", "sleeper", delay="30d")

    async def focused(tab: Tab) -> str:
        return await tab.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")

    async def walk(tab: Tab) -> None:
        await tab.open("/executions")
        press = tab.page.keyboard.press
        await press("Tab")
        assert await focused(tab) == "Skip to the content"
        box = await tab.page.locator(".skip").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        await press("Enter")
        assert await focused(tab) == "main"
        await press("/")
        assert await tab.evaluate("document.activeElement.name") == "id"
        await tab.page.keyboard.type("order-1")
        await press("Enter")
        await tab.page.wait_for_url("**/executions?id=order-1*")
        for _ in range(40):
            await press("Tab")
            if await focused(tab) == "order-1":
                break
        await press("Enter")
        await tab.page.wait_for_url("**/executions/order-1")
        await tab.page.get_by_role("heading", name="order-1").wait_for()
        await tab.page.go_back()
        await tab.page.wait_for_url("**/executions?id=order-1*")
        assert await tab.page.locator("tbody tr").count() == 1

    async with served(app) as origin:
        await chromium.use(origin, walk)


@pytest.mark.leaves_keys("the listener of the dashboard")
async def test_a_sleeper_survives_its_worker_and_is_woken_before_the_eyes_of_people(
    chromium: Chromium, workers: Workers, app: Durasleep
) -> None:
    [first] = await workers.start("w1")
    await app.rpc("sleeper", "sleeping_workflow", 30 * 86_400)
    await until(app, "sleeper", "suspended")
    steps: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    killed = asyncio.Event()

    async def walk(tab: Tab) -> None:
        await tab.open("/executions")
        await tab.evaluate("window.isSame = true")
        loop.call_soon_threadsafe(steps.put_nowait, "start another")
        await tab.page.get_by_role("link", name="another").wait_for()
        assert await tab.evaluate("window.isSame")  # it has come without loading the page again

        await tab.page.get_by_role("link", name="sleeper").click()
        await tab.page.get_by_text("suspended").first.wait_for()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_kill(first, killed), loop))
        await tab.page.reload()
        await tab.page.get_by_text("suspended").first.wait_for()

        await tab.page.get_by_role("button", name="Wake").click()
        await tab.page.get_by_role("heading", name="Wake sleeper?").wait_for()
        await tab.page.get_by_role("button", name="Wake").click()
        await tab.page.wait_for_url("**/executions/sleeper")
        await tab.page.get_by_text("sleeper: woken").wait_for()
        await tab.evaluate("window.isSame = true")
        loop.call_soon_threadsafe(steps.put_nowait, "start a worker")
        await tab.page.get_by_text("resolved").first.wait_for()
        assert await tab.evaluate("window.isSame")

    async def help_along() -> None:
        while True:
            match await steps.get():
                case "start another":
                    await app.rpc("another", "sleeping_workflow", 86_400)
                case _:
                    await workers.start("w2")

    helping = asyncio.create_task(help_along())
    async with served(app, writable=True) as origin:
        await chromium.use(origin, walk)
    helping.cancel()
    assert killed.is_set()


async def _kill(worker: WorkerProcess, killed: asyncio.Event) -> None:
    await worker.kill()
    killed.set()


@pytest.mark.leaves_keys("nothing ends the executions")
async def test_without_scripts_every_form_works(chromium: Chromium, app: Durasleep) -> None:
    for number in range(3):
        await app.rpc(f"order-{number}", "sleeper", delay="30d")

    async def walk(tab: Tab) -> None:
        page = tab.page
        await tab.open("/executions?status=delayed")
        await page.get_by_label("Token").fill("wrong, but long enough")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_text("This is not the token.").wait_for()
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_label("Your name").fill("Zoë")
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url("**/executions?status=delayed")
        await page.get_by_label("Id begins with").fill("order-2")
        await page.get_by_role("button", name="Search").click()
        await page.get_by_role("link", name="order-2").click()
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("link", name="Do nothing").click()
        await page.wait_for_url("**/executions/order-2")
        await tab.open("/executions")
        await page.get_by_label("Choose order-0").check()
        await page.get_by_label("Choose order-1").check()
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Cancel 2 executions").click()
        await page.get_by_text("cancel: 2 done").wait_for()
        await page.get_by_role("button", name="Log out").click()
        await page.get_by_role("heading", name="Log in").wait_for()
        await page.go_back()
        await page.get_by_role("heading", name="Log in").wait_for()
        tab.problems = [one for one in tab.problems if "401" not in one]

    async with served(app, writable=True, token=TOKEN) as origin:
        await chromium.use(origin, walk, java_script_enabled=False)
    assert (await app.describe("order-2")).status == "delayed"
    assert {(one.by, one.verb, one.id) for one in await app.audit()} == {
        ("Zoë (token)", "cancel", "order-0"),
        ("Zoë (token)", "cancel", "order-1"),
    }


ATTACK = """<!doctype html><title>evil</title>
<form id="f" method="post" action="{origin}/executions/order-0/cancel"><input name="csrf"><input name="once"></form>
<iframe src="{origin}/executions/order-0/cancel"></iframe>
<a id="link" href="{origin}/executions/order-0">look</a>"""


@pytest.mark.leaves_keys("nothing ends the executions")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_page_of_another_site_can_open_links_and_nothing_else(
    chromium: Chromium, app: Durasleep, host: str
) -> None:
    """A page at another port has our cookies sent along; one by another name of this machine has not."""
    await app.rpc("order-0", "sleeper", delay="30d")

    async def walk(tab: Tab) -> None:
        page = tab.page
        await tab.open("/login")
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("heading", name="Overview").wait_for()
        evil = f"http://{host}:{port}/"
        await page.goto(evil)
        assert len(page.frames) == 2
        assert await page.frames[1].locator("form").count() == 0  # it is shown in no frame
        sent = await tab.evaluate(
            f"fetch('{tab.origin}/executions/order-0/cancel', {{method: 'POST', body: new URLSearchParams({{csrf: 0}}),"
            " mode: 'no-cors', credentials: 'include'}).then((it) => it.type, (error) => 'failed')"
        )
        assert sent in ("opaque", "failed")
        await tab.evaluate("document.getElementById('f').submit()")
        await page.get_by_text("does not come from a page of this dashboard").wait_for()
        await page.goto(evil)
        await page.locator("#link").click()
        await page.get_by_role("heading", name="order-0").wait_for()  # the session is found all the same
        tab.problems.clear()

    async def attack(scope: Any, receive: Any, send: Any) -> None:
        page = ATTACK.format(origin=origin).encode()
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": page})

    async with served(app, writable=True, token=TOKEN) as origin, serving_asgi(attack) as port:
        await chromium.use(origin, walk)
    assert (await app.describe("order-0")).status == "delayed"
    assert await app.audit() == []
