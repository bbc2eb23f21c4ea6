"""A chain: each task gets the result of the one before it.

As a worker:   durasleep worker examples.chain:app
As a client:   durasleep rpc page-1 publish tea        prints: 21 bytes are online
"""

from durasleep import Context, Durasleep, Retry

app = Durasleep()


@app.workflow
async def publish(ctx: Context, title: str) -> str:
    text = await ctx.rpc(write, title)
    page = await ctx.rpc(render, text)
    return await ctx.rpc(upload, page)


@app.task
def write(title: str) -> str:
    return f"All about {title}."


@app.task
def render(text: str) -> str:
    return f"<p>{text}</p>"


@app.task(retry=Retry(attempts=5, delay=2))
def upload(page: str) -> str:
    print(f"uploading {page}")
    return f"{len(page)} bytes are online"
