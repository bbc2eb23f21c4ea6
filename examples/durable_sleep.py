"""A workflow that sleeps while no process holds it.

As a worker:   durasleep worker examples.durable_sleep:app
As a client:   python -m examples.durable_sleep
"""

import asyncio

from durasleep import Context, Durasleep

app = Durasleep()


@app.workflow
async def sleeping_workflow(ctx: Context, secs: int) -> str:
    print(f"Sleeping for {secs} seconds...")
    await ctx.sleep(secs)
    return f"Slept for {secs} seconds"


async def main() -> None:
    async with app:
        handle = await app.rpc("sleep-workflow-1", sleeping_workflow, 5, target="poll://any@workers")
        print(await handle)


if __name__ == "__main__":
    asyncio.run(main())
