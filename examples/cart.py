"""A shopping cart that is one workflow and lives for months: changes, a reminder, the order.

As a worker:   durasleep worker examples.cart:app
As a client:   durasleep send cart-ada change '{"sku": "tea", "count": 2}' --start cart
               durasleep send cart-ada change '{"sku": "cup", "count": 1}' --start cart
               durasleep view cart-ada
               durasleep send cart-ada change '{"sku": "", "count": 0}'
               durasleep rpc cart-ada cart                                prints: {"tea": 2, "cup": 1}

The first change begins the cart. Nothing runs between two changes, however long that is.
"""

from dataclasses import dataclass
from datetime import timedelta

from durasleep import Channel, Context, Durasleep, TimedOut

CHANGES_EACH = 100  # of one run: then it begins a new one, so that its journal stays short
PATIENCE = timedelta(days=30)

app = Durasleep()


@dataclass
class Change:
    sku: str
    """What is changed; empty to order what there is."""
    count: int


CHANGES = Channel("change", Change)


@app.workflow
async def cart(ctx: Context, items: dict[str, int] | None = None) -> dict[str, int]:
    items, changes = items or {}, 0
    while True:
        ctx.publish(items=items)
        try:
            change = await ctx.receive(CHANGES, timeout=PATIENCE)
        except TimedOut:
            await ctx.run(remind, ctx.info.id, items)
            continue
        if not change.sku:
            return items
        items[change.sku] = items.get(change.sku, 0) + change.count
        changes += 1
        if changes == CHANGES_EACH:
            ctx.continue_as_new(items)


def remind(id: str, items: dict[str, int]) -> None:
    print(f"{id}: there are still {sum(items.values())} things in your cart")
