"""A report every night at three o'clock in Berlin, once, however many workers there are.

As a worker:   durasleep worker examples.nightly_report:app
As a client:   durasleep schedule get nightly_report            shows when it starts
               durasleep schedule trigger nightly_report        starts one more now, and prints its id
"""

from datetime import date, timedelta

from durasleep import Context, Durasleep, Retry

app = Durasleep()


@app.cron("0 3 * * *", zone="Europe/Berlin")
@app.workflow
async def nightly_report(ctx: Context) -> str:
    night = ctx.info.scheduled_at or ctx.info.created_at  # that night, also if the report starts late
    day = night.date() - timedelta(days=1)
    orders = await ctx.run(count_orders, day)
    await ctx.run(send, f"{orders} orders on {day}")
    return str(day)


@app.task(retry=Retry(attempts=5, delay=60))
def count_orders(day: date) -> int:
    return day.day


@app.task(retry=Retry(attempts=5, delay=60))
def send(text: str) -> None:
    print(f"to everybody: {text}")
