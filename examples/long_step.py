"""The heartbeat of a long step: the next attempt goes on where the last one has come to.

As a worker:   durasleep worker examples.long_step:app
As a client:   durasleep rpc import-1 import_file orders.csv 10        prints: 10 rows of orders.csv are imported

Import 1000 rows, kill the worker with -9 meanwhile, and start it again: it goes on, and does at most the rows of the
last second once more.
"""

import asyncio

from durasleep import Context, Durasleep, Retry, checkpoint, current

app = Durasleep()


@app.workflow
async def import_file(ctx: Context, file: str, rows: int) -> str:
    count = await ctx.run(import_rows, file, rows)
    return f"{count} rows of {file} are imported"


@app.task(retry=Retry(attempts=5, delay=2))
async def import_rows(file: str, rows: int) -> int:
    done: int = current().checkpoint or 0
    for row in range(done, rows):
        await import_row(file, row)
        checkpoint(row + 1)
    return rows


async def import_row(file: str, row: int) -> None:
    await asyncio.sleep(0.1)
    print(f"row {row} of {file}")
