"""A function of another group of workers, called by its name. Its worker may be written in another language.

Run it as `python rpc_by_group.py worker` in one terminal, and as `python rpc_by_group.py` in another; or one of them as
`node rpc_by_group.ts`.
"""

import asyncio
import os
import sys

from resonate.context import Context
from resonate.resonate import Resonate

URL = os.environ.get("RESONATE_URL", "http://localhost:8001")


async def album(ctx: Context, pictures: list[str]) -> list[str]:
    resized = [ctx.options(target="pictures").rpc("resize", picture, 100) for picture in pictures]
    return [await one for one in resized]


async def resize(ctx: Context, picture: str, width: int) -> str:
    return f"{picture} of {width} pixels"


def serve(resonate: Resonate) -> None:
    resonate.register(resize)


async def run(resonate: Resonate, id: str) -> list[str]:
    resonate.register(album)
    return await resonate.run(id, album, ["sea.png", "sky.png"]).result()


async def main() -> None:
    if "worker" in sys.argv:
        serve(Resonate(url=URL, group="pictures"))
        await asyncio.Event().wait()
    resonate = Resonate(url=URL)
    try:
        print(await run(resonate, "album-1"))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
