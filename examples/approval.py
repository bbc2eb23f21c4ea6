"""Wait for a person, with a reminder each day, for three days.

As a worker:   durasleep worker examples.approval:app
As a client:   durasleep rpc expense-7 approve_expense 250 --no-wait
               durasleep get expense-7                        shows that it waits for a message
               durasleep send expense-7 decision '{"by": "Ada", "approved": true}'
               durasleep rpc expense-7 approve_expense 250    prints: 250 EUR approved by Ada

A web application for it is examples/approval_web.py.
"""

from dataclasses import dataclass
from datetime import timedelta

from durasleep import Channel, Context, Durasleep, TimedOut

app = Durasleep()


@dataclass
class Decision:
    by: str
    approved: bool


DECISION = Channel("decision", Decision)


@app.workflow
async def approve_expense(ctx: Context, euros: int, days: int = 3, day_s: float = 86_400.0) -> str:
    ctx.publish(status=f"waiting for a decision about {euros} EUR")
    for day in range(days):
        await ctx.run(write_mail, ctx.info.id, euros, day)
        try:
            decision = await ctx.receive(DECISION, timeout=timedelta(seconds=day_s))
        except TimedOut:
            continue
        return f"{euros} EUR {'approved' if decision.approved else 'declined'} by {decision.by}"
    return f"{euros} EUR declined: nobody answered in time"


def write_mail(id: str, euros: int, day: int) -> None:
    """A real application sends a mail here, with a link to its page."""
    print(f"{'Reminder: may' if day else 'May'} we spend {euros} EUR? Send your decision to {id}.")
