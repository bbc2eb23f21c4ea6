"""A limit for each customer: whoever asks for much does not keep the others waiting.

As a worker:   durasleep worker examples.per_customer:app
As a client:   python -m examples.per_customer
               durasleep limit ls

At most two exports of one customer run at a time, and at most twenty in all. The key in braces puts all of a customer
into one partition; with one partition it does no harm.
"""

import asyncio

from durasleep import Durasleep, Limit

MONTHS = ("january", "february", "march", "april", "may", "june")

app = Durasleep()
exports = Limit("exports", per_key=2, total=20)


def customer_of(customer: str, month: str) -> str:
    return customer


@app.task(limit=exports, by=customer_of)
async def export(customer: str, month: str) -> str:
    await asyncio.sleep(0.3)
    return f"{month} of {customer} is exported"


async def main() -> None:
    async with app:
        calls = [(f"{{ada}}{month}", "ada", month) for month in MONTHS]
        handles = await app.rpc_many(export, [*calls, ("{bob}june", "bob", "june")])
        for one in asyncio.as_completed([handle.result() for handle in handles]):
            print(await one)


if __name__ == "__main__":
    asyncio.run(main())
