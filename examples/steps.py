"""Charge, wait, ship: steps run in the worker, and each result is stored before the next step begins.

As a worker:   durasleep worker examples.steps:app
As a client:   durasleep rpc order-42 fulfil_order '{"sku": "tea", "cents": 1250}' 2
"""

from dataclasses import dataclass
from datetime import timedelta

from durasleep import Context, Durasleep

app = Durasleep()


@dataclass
class Order:
    sku: str
    cents: int


@dataclass
class Receipt:
    payment: str
    parcel: str


@app.workflow
async def fulfil_order(
    ctx: Context, order: Order, cooling_off_s: float = timedelta(days=14).total_seconds()
) -> Receipt:
    # A step may run again if its worker dies before the result is stored: give the payment service the id of the order.
    payment = await ctx.run(charge, ctx.info.id, order.cents)
    await ctx.sleep(cooling_off_s)
    parcel = await ctx.run(ship, order.sku)
    return Receipt(payment, parcel)


async def charge(idempotency_key: str, cents: int) -> str:
    print(f"charging {cents} cents, once for {idempotency_key}")
    return f"payment-of-{idempotency_key}"


def ship(sku: str) -> str:
    print(f"shipping {sku}")
    return f"parcel-with-{sku}"
