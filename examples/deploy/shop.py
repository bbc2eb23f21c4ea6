"""The application of these files: it charges an order, and reminds its customer a month later.

On a machine with Redis:   durasleep worker shop:app --health :8080
"""

from durasleep import Context, Durasleep, Limit, Retry

app = Durasleep()
per_customer = Limit("per-customer", per_key=2)


def customer_of(customer: str, cents: int) -> str:
    return customer


@app.task(limit=per_customer, by=customer_of)
async def charge(customer: str, cents: int) -> str:
    if cents <= 0:
        raise ValueError(f"{cents} cents cannot be charged")
    return f"{customer} paid {cents}"


@app.task(retry=Retry(attempts=5, delay="10s"))
async def remind(customer: str) -> str:
    return f"{customer} was reminded"


@app.workflow
async def order(ctx: Context, customer: str, cents: int, remind_after: str = "30d") -> str:
    receipt = await ctx.rpc(charge, customer, cents)
    await ctx.sleep(remind_after)
    await ctx.run(remind, customer)
    return receipt
