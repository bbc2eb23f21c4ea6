"""A subscription that bills monthly for a year: on the day of the month on which it began, or on the month's last day.

As a worker:   durasleep worker examples.subscription:app
As a client:   durasleep rpc subscription-1 subscribe ada 900 --no-wait
               durasleep get subscription-1           shows when the next month begins
               durasleep wake subscription-1          the next month begins now
               durasleep cancel subscription-1        ada is not billed any more

A test runs the whole year in a moment, see tests/cli/test_recipes.py.
"""

from calendar import monthrange
from datetime import datetime

from durasleep import Context, Durasleep, Retry, current

app = Durasleep()


@app.workflow
async def subscribe(ctx: Context, customer: str, cents: int) -> str:
    for month in range(12):
        await ctx.sleep_until(months_after(ctx.info.created_at, month), name=f"month {month + 1}")
        await ctx.run(charge, customer, cents)
    return f"{customer} has paid for a year"


def months_after(begin: datetime, months: int) -> datetime:
    """Counted from the beginning: 31 January is followed by 28 February, and that by 31 March."""
    years, month = divmod(begin.month - 1 + months, 12)
    year, month = begin.year + years, month + 1
    return begin.replace(year=year, month=month, day=min(begin.day, monthrange(year, month)[1]))


@app.task(retry=Retry(attempts=8, delay=3600))
async def charge(customer: str, cents: int) -> None:
    print(f"charging {customer} {cents} cents for {current().idempotency_key}")
