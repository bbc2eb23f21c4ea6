"""Send a reminder every three days until somebody pays, for a month: a race between a person and a timer.

As a worker:   durasleep worker examples.reminders:app
As a client:   durasleep rpc invoice-7 collect ada@example.org --no-wait
               durasleep promise resolve invoice-7~1            it is paid
A test runs this month in a moment, see tests/cli/test_examples.py.
"""

import asyncio
from datetime import timedelta

from durasleep import Context, Durasleep, Retry

app = Durasleep()


@app.workflow
async def collect(ctx: Context, email: str) -> str:
    payment = ctx.promise(name="payment")
    await ctx.run(send, email, f"Please pay by resolving {payment.id}")
    for count in range(1, 11):
        # A race cancels the losers. The payment is shielded, so that the next race can wait for it, too.
        winner = await ctx.race(asyncio.shield(payment), ctx.sleep(timedelta(days=3)))
        if winner.index == 0:
            return f"paid after {count - 1} reminders"
        await ctx.run(send, email, f"Reminder {count}")
    return "given to a lawyer"


@app.task(retry=Retry(attempts=8, delay=timedelta(minutes=1)))
def send(email: str, text: str) -> None:
    print(f"to {email}: {text}")
