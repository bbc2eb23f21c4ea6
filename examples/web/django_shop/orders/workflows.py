"""What happens to an order, for a week and longer. Django imports this module when it starts."""

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from durasleep import Channel, Context, TimedOut, progress
from durasleep.contrib.django import app
from orders.models import Order

PAYMENT = Channel("payment", int)


def start(number: int) -> None:
    """The same number is the same execution: starting it again changes nothing."""
    app.sync.rpc(f"order-{number}", fulfil, number, settings.REVIEW_AFTER)


@app.workflow
async def fulfil(ctx: Context, number: int, review_after: timedelta) -> str:
    await ctx.run(set_status, number, "waiting for payment")
    try:
        cents = await ctx.receive(PAYMENT, timeout=timedelta(days=3))
    except TimedOut:
        await ctx.run(set_status, number, "not paid")
        return "nobody paid"
    await ctx.run(set_status, number, "paid")
    await ctx.run(pack, number)
    await ctx.run(set_status, number, "shipped")
    await ctx.sleep(review_after)
    await ctx.run(set_status, number, "done")
    return f"order {number} for {cents} cents"


@app.task
def set_status(number: int, status: str) -> None:
    """A sync task runs in a thread, and uses the ORM as a sync view does."""
    Order.objects.filter(pk=number).update(status=status)


@app.task
async def pack(number: int) -> None:
    """An async task uses the async methods of the ORM."""
    order = await Order.objects.aget(pk=number)
    for parcel in range(order.parcels):
        progress(parcel + 1, order.parcels)


@app.cron("* * * * *")
@app.task
def start_missed() -> int:
    """Start what was placed while Redis could not be reached: each row is a note that it has to be started."""
    before = timezone.now() - timedelta(minutes=1)
    missed = Order.objects.filter(status="new", placed_at__lt=before).values_list("pk", flat=True)[:1000]
    for number in missed:
        start(number)
    return len(missed)
