"""An actor: one execution that owns a number, and answers questions one after another.

As a worker:   durasleep worker examples.counter_actor:app
As a client:   durasleep ask counter-1 add 5 --timeout 10s --start counter    prints: 5
               durasleep ask counter-1 add 2 --timeout 10s                    prints: 7
               python -m examples.counter_actor                               prints: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]

There is no lock, and no two questions are answered at the same time. Its state is in its arguments and its journal.
"""

import asyncio

from durasleep import Channel, Context, Durasleep

QUESTIONS_EACH = 500  # of one run: then it begins a new one with its number, and loses no question

app = Durasleep()
ADD = Channel("add", int)


@app.workflow
async def counter(ctx: Context, total: int = 0) -> None:
    for _ in range(QUESTIONS_EACH):
        message = await anext(ctx.messages(ADD))
        total += message.value
        ctx.publish(total=total)
        await message.reply(total)
    ctx.continue_as_new(total)


async def main() -> None:
    async with app:
        answers = [app.ask("counter-2", ADD, 1, timeout="10s", returns=int, start=(counter,)) for _ in range(10)]
        print(sorted(await asyncio.gather(*answers)))


if __name__ == "__main__":
    asyncio.run(main())
