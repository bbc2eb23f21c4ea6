"""Events of a payment provider, each counted once: the id of an event is the key of its message.

As a worker:   durasleep worker examples.webhook:app
As a client:   durasleep rpc order-7 order 4200 --no-wait
               durasleep send order-7 payment '{"event": "evt-1", "cents": 2000}' --key evt-1
               durasleep send order-7 payment '{"event": "evt-1", "cents": 2000}' --key evt-1   once only
               durasleep send order-7 payment '{"event": "evt-2", "cents": 2200}' --key evt-2
               durasleep rpc order-7 order 4200                        prints: paid by evt-1, evt-2

Providers send an event again until they get an answer, and sometimes twice at the same time.
"""

from dataclasses import dataclass
from datetime import timedelta

from durasleep import Channel, Context, Durasleep, Ended

app = Durasleep()


@dataclass
class Payment:
    event: str
    cents: int


PAYMENTS = Channel("payment", Payment)


@app.workflow
async def order(ctx: Context, cents: int) -> str:
    paid = 0
    events: list[str] = []
    while paid < cents:
        ctx.publish(status=f"{paid} of {cents} cents are paid")
        payment = await ctx.receive(PAYMENTS, timeout=timedelta(days=14))
        paid += payment.cents
        events.append(payment.event)
    return f"paid by {', '.join(events)}"


async def on_event(order_id: str, payment: Payment) -> int:
    """The handler of a web application: its answer is the status code for the provider."""
    try:
        await app.send(order_id, PAYMENTS, payment, key=payment.event)
    except Ended:
        return 200  # it is paid, and late events change nothing
    return 202
