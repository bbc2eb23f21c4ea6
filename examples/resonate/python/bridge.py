"""Functions of this program for workflows of durasleep, and a function of durasleep for this program.

`durasleep serve --bridge pictures` lets workflows of durasleep call the functions of group `pictures`. Run this file as
`python bridge.py worker` for them, and as `python bridge.py` to call a task of durasleep.
"""

import asyncio
import os
import sys

from resonate.context import Context
from resonate.error import ApplicationError
from resonate.resonate import Resonate
from resonate.retry import Never

URL = os.environ.get("RESONATE_URL", "http://localhost:8001")


async def resize(ctx: Context, picture: dict[str, str], width: int) -> dict[str, str | int]:
    if width > 1000:
        raise ValueError(f"{picture['name']} cannot be so wide")
    return {**picture, "width": width}


def serve(resonate: Resonate) -> None:
    resonate.register(resize, retry_policy=Never())  # by default it would be called again and again


async def run(resonate: Resonate, id: str, price: int) -> float:
    return await resonate.options(target="durasleep://workers").rpc(id, "add_tax", price).result()


async def main() -> None:
    if "worker" in sys.argv:
        serve(Resonate(url=URL, group="pictures"))
        await asyncio.Event().wait()
    resonate = Resonate(url=URL)
    price = int((sys.argv[1:] or ["100"])[0])
    try:
        print(f"with tax: {await run(resonate, f'price-{price}', price)}")
    except ApplicationError as error:
        print(f"failed: {error}")
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
