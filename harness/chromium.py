"""A headless Chromium in a thread of its own, so that tests and servers keep their event loops."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

T = TypeVar("T")

PATIENCE_MS = 15_000
NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ("--disable-gpu", "--disable-dev-shm-usage", "--font-render-hinting=none")

# Chromium tells of a policy that was violated in the console, too; this also tells of what is only reported.
_WATCH = "document.addEventListener('securitypolicyviolation', (e) => console.error('policy', e.violatedDirective));"


def find() -> str | None:
    """The Chromium of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """A page, and everything wrong that has happened on it."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.problems: list[str] = []
        self._session: Any = None  # its types are not complete
        page.on("console", lambda message: self._note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("dialog", lambda dialog: self._note(f"dialog: {dialog.message}"))
        page.on("request", lambda request: None if self._is_ours(request.url) else self._note(f"to {request.url}"))

    def _is_ours(self, url: str) -> bool:
        return url.startswith((f"{self.origin}/", "data:"))

    def _note(self, text: str) -> None:
        self.problems.append(f"{self.page.url}: {text}")

    async def open(self, path: str) -> None:
        """Go to a page of the dashboard."""
        await self.page.goto(self.origin + path)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression; no policy of the page forbids it."""
        if self._session is None:
            self._session = await self.page.context.new_cdp_session(self.page)
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = await self._session.send("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def axe(self, *rules: str) -> list[str]:
        """What axe-core finds wrong by these rules, by default by all that it has; one line each."""
        await self.evaluate(f"window.axe === undefined && (() => {{ {axe_source()} }})()")
        options = {"resultTypes": ["violations"], "preload": False, **({"runOnly": rules} if rules else {})}
        found = await self.evaluate(f"axe.run({json.dumps(options)}).then((found) => found.violations)")
        return [
            f"{self.page.url}: {one['id']}: {one['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for one in found
            for node in one["nodes"]
        ]


@cache
def axe_source() -> str:
    """The program axe-core; it is no part of what is shipped."""
    import axe_playwright_python

    return Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


class Chromium:
    """One browser; each use of it has cookies of its own."""

    def __init__(self, executable: str) -> None:
        self._executable = executable
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chromium", daemon=True)
        self._thread.start()
        self._stop: Callable[[], Awaitable[None]] | None = None
        self._browser: Browser = self._submit(self._start()).result(60)

    async def _start(self) -> Browser:
        playwright = await async_playwright().start()
        sandbox = os.geteuid() != 0  # root has none
        browser = await playwright.chromium.launch(
            executable_path=self._executable, args=_ARGUMENTS, chromium_sandbox=sandbox
        )

        async def stop() -> None:
            await browser.close()
            await playwright.stop()

        self._stop = stop
        return browser

    def _submit(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def use(self, origin: str, walk: Callable[[Tab], Awaitable[T]], **options: Any) -> T:
        """Let ``walk`` use a tab, in the thread of the browser; AssertionError if anything went wrong on its pages."""
        return await asyncio.wrap_future(self._submit(self._use(origin, walk, options)))

    async def _use(self, origin: str, walk: Callable[[Tab], Awaitable[T]], options: dict[str, Any]) -> T:
        context: BrowserContext = await self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        await context.add_init_script(_WATCH)
        try:
            tab = Tab(await context.new_page(), origin)
            answer = await walk(tab)
            assert not tab.problems, "\n".join(tab.problems)
            return answer
        finally:
            await context.close()

    def close(self) -> None:
        """End the browser and its thread."""
        if self._stop is not None:
            self._submit(self._stop()).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
