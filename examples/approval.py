"""Wait until a person resolves a promise, or three days have passed.

As a worker:   durasleep worker examples.approval:app
As a client:   durasleep rpc expense-7 approve_expense 250 --no-wait
               durasleep get expense-7                          shows the promise it waits for
               durasleep promise resolve expense-7~1 --value '"Ada"'
               durasleep rpc expense-7 approve_expense 250
"""

from datetime import timedelta

from durasleep import Context, Durasleep, TimedOut

app = Durasleep()


@app.workflow
async def approve_expense(ctx: Context, euros: int, patience_s: float = timedelta(days=3).total_seconds()) -> str:
    approval = ctx.promise(timeout=timedelta(seconds=patience_s), name="approval")
    await ctx.run(ask_for_approval, approval.id, euros)
    try:
        return f"{euros} EUR approved by {await approval}"
    except TimedOut:
        return f"{euros} EUR declined: nobody answered in time"


def ask_for_approval(promise_id: str, euros: int) -> None:
    """A real application sends a mail here, with a link that resolves the promise."""
    print(f"May we spend {euros} EUR? Whoever resolves {promise_id} decides.")
