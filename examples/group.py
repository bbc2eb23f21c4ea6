"""A group: several tasks at the same time, and their results in order.

As a worker:   durasleep worker examples.group:app
As a client:   durasleep rpc photo-1 make_thumbnails cat.png        prints: cat-100.png cat-400.png cat-1600.png
"""

import asyncio

from durasleep import Context, Durasleep, Retry

WIDTHS = (100, 400, 1600)

app = Durasleep()


@app.workflow
async def make_thumbnails(ctx: Context, photo: str) -> str:
    thumbnails = await asyncio.gather(*(ctx.rpc(resize, photo, width) for width in WIDTHS))
    return " ".join(thumbnails)


@app.task(retry=Retry(attempts=3, delay=2))
async def resize(photo: str, width: int) -> str:
    print(f"resizing {photo} to {width} pixels")
    return photo.replace(".", f"-{width}.")
