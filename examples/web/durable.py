"""The durable part of the shops in fastapi/ and litestar/: it knows nothing of the web.

As a worker:   durasleep worker examples.web.durable
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from durasleep import Channel, Context, Durasleep, TimedOut, progress

app = Durasleep()


@dataclass
class Order:
    customer: str
    parcels: int = 1


@dataclass
class Payment:
    cents: int


PAYMENT = Channel("payment", Payment)


@app.workflow
async def fulfil(ctx: Context, order: Order, review_after: timedelta) -> str:
    ctx.publish(status="waiting for payment")
    try:
        payment = await ctx.receive(PAYMENT, timeout=timedelta(days=3))
    except TimedOut:
        return "nobody paid"
    ctx.publish(status="packing")
    await ctx.run(pack, order.parcels)
    ctx.publish(status="shipped")
    await ctx.sleep(review_after)
    await ctx.run(write_mail, order.customer, "How do you like it?")
    return f"{order.parcels} parcels for {payment.cents} cents"


@app.task
async def pack(parcels: int, seconds: float = 0.02) -> None:
    for parcel in range(parcels):
        await asyncio.sleep(seconds)
        progress(parcel + 1, parcels)


def write_mail(to: str, text: str) -> None:
    """A real shop sends it here."""
    print(f"to {to}: {text}")
