"""Pictures of the dashboard for its documentation: one of each view, of a namespace on a server of their own."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image

from durasleep import Durasleep, dashboard
from durasleep.dashboard import serving
from durasleep.devserver import DevServer
from harness import chromium
from harness.chromium import Chromium, Tab
from harness.lively import ORDER, lively

FOLDER = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT_MAX = 1_100, 820
COLORS = 64
PICTURES = {
    "overview": "/",
    "executions": "/executions",
    "execution": f"/executions/{ORDER}",
    "calendar": "/calendar",
    "groups": "/groups",
    "limits": "/limits",
    "schedules": "/schedules",
    "mailboxes": "/mailboxes",
    "published": "/published",
    "audit": "/audit",
    "partitions": "/partitions",
    "doctor": "/doctor",
    "wake": f"/executions/{ORDER}/wake",
}
DARK = ("overview", "execution")
"""The views that are also shown in the dark scheme."""


async def take(tab: Tab, folder: Path) -> None:
    """Take all pictures."""
    for name, path in PICTURES.items():
        await tab.open(path)
        for scheme in ("light", "dark") if name in DARK else ("light",):
            await tab.page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
            file = folder / f"dashboard-{name}{'-dark' if scheme == 'dark' else ''}.png"
            height = await tab.evaluate("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)")
            await tab.page.set_viewport_size({"width": WIDTH, "height": min(HEIGHT_MAX, height)})
            shrink(await tab.page.screenshot()).save(file, optimize=True)
            print(f"{file.relative_to(folder.parent)}: {file.stat().st_size / 1024:.0f} kB")


def shrink(picture: bytes) -> Image.Image:
    """A picture with few colors, which is all that a page has: a third of the size."""
    return (
        Image.open(BytesIO(picture))
        .convert("RGB")
        .quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )


async def run(url: str, folder: Path) -> None:
    """Fill a namespace, serve its dashboard, and take the pictures."""
    executable = chromium.find()
    if executable is None:
        raise SystemExit("there is no Chromium here; on Debian and Ubuntu: apt-get install chromium")
    browser = Chromium(executable)
    try:
        async with lively(url, "shop", hostile=False) as app:
            await _photograph(browser, app, folder)
    finally:
        browser.close()


async def _photograph(browser: Chromium, app: Durasleep, folder: Path) -> None:
    site = dashboard.create_app(app, writable=True, show_values=True, user="ada@shop")
    socket = serving.listen("127.0.0.1", 0)
    server = uvicorn.Server(serving.config(site))
    running = asyncio.create_task(server.serve(sockets=[socket]))

    async def walk(tab: Tab) -> None:
        await take(tab, folder)

    size: dict[str, Any] = {"width": WIDTH, "height": HEIGHT_MAX}
    try:
        await browser.use(f"http://127.0.0.1:{socket.getsockname()[1]}", walk, viewport=size, locale="en")
    finally:
        server.should_exit = True
        site.state.site.live.close()
        await running


def main() -> None:
    """Take them, into the folder that is named."""
    parser = argparse.ArgumentParser(prog="scripts/screenshots", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help="where to write them (default: docs/images)"
    )
    folder: Path = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, DevServer(Path(directory), persist=False) as server:
        asyncio.run(run(server.url, folder))


if __name__ == "__main__":
    main()
