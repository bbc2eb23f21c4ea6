"""A charge that happens once, also if a worker dies between the charge and its record.

As a worker:   durasleep worker examples.idempotent_charge:app
As a client:   durasleep rpc order-1 pay ada 900        prints: ada paid 900 cents: charge 1

The step runs again then. The payment provider knows its idempotency key, and answers with the charge it has made.
"""

from durasleep import Context, Durasleep, Retry, current

app = Durasleep()


class Provider:
    """It charges once for each idempotency key, as payment providers do."""

    def __init__(self) -> None:
        self.charges: dict[str, str] = {}

    async def charge(self, customer: str, cents: int, *, idempotency_key: str) -> str:
        if idempotency_key not in self.charges:
            print(f"charging {customer} {cents} cents for {idempotency_key}")
            self.charges[idempotency_key] = f"charge {len(self.charges) + 1}"
        return self.charges[idempotency_key]


provider = Provider()


@app.workflow
async def pay(ctx: Context, customer: str, cents: int) -> str:
    charge_id = await ctx.run(charge, customer, cents)
    return f"{customer} paid {cents} cents: {charge_id}"


@app.task(retry=Retry(attempts=5, delay=2))
async def charge(customer: str, cents: int) -> str:
    return await provider.charge(customer, cents, idempotency_key=current().idempotency_key)
