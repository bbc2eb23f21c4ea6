"""A long step that says how far it is: `durasleep rpc` shows a bar while it waits.

As a worker:   durasleep worker examples.progress:app
As a client:   durasleep rpc import-7 import_rows 200    prints: 198 rows imported, 2 had errors
               durasleep view import-7

In another terminal, `durasleep view import-7 --follow` shows each change.
"""

import time

from durasleep import Context, Durasleep, progress

app = Durasleep()


@app.workflow
async def import_rows(ctx: Context, rows: int, row_s: float = 0.01) -> str:
    ctx.publish(status="importing")
    errors = await ctx.run(read_rows, rows, row_s)
    ctx.publish(status="done")
    return f"{rows - errors} rows imported, {errors} had errors"


def read_rows(rows: int, row_s: float) -> int:
    errors = 0
    for row in range(rows):
        time.sleep(row_s)
        errors += row % 100 == 99
        progress(row + 1, rows, f"{errors} errors")  # sent at most once a second, and at the end
    return errors
