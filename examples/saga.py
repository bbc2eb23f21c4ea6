"""A saga: if a later step fails, the finished ones are undone, the last one first.

As a worker:   durasleep worker examples.saga:app
As a client:   durasleep rpc trip-1 book_trip Rome            prints: Rome is booked
               durasleep rpc trip-2 book_trip Atlantis        fails; the worker prints what it cancels

Every step may run twice, see the README: canceling a booking that is canceled already must do no harm.
"""

from durasleep import Context, Durasleep, Retry

app = Durasleep()


@app.workflow
async def book_trip(ctx: Context, city: str) -> str:
    booked: list[str] = []
    try:
        for kind in ("flight", "hotel", "car"):
            booking = await ctx.run(book, kind, city)
            ctx.on_cancel(cancel, booking)
            booked.append(booking)
    except Exception:
        for booking in reversed(booked):
            await ctx.run(cancel, booking)
        raise
    return f"{city} is booked"


@app.task
async def book(kind: str, city: str) -> str:
    if (kind, city) == ("car", "Atlantis"):
        raise ValueError("there are no cars in Atlantis")
    print(f"booking a {kind} in {city}")
    return f"{kind} in {city}"


@app.task(retry=Retry(attempts=10, delay=1))
async def cancel(booking: str) -> None:
    print(f"canceling the {booking}")
