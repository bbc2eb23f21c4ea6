"""The workflows that run while things break. Their effects outside Redis are lines in a file, written at once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from durasleep import Canceled, Context, Durasleep, Limit, Retry
from harness.chaos import reach

EFFECTS = "DURASLEEP_CHAOS_EFFECTS"
"""The environment variable with the path of that file."""

NAP_S = 0.5
PARTS = 8
"""How many executions with ids of their own a workflow calls: they live in other partitions, if there are any."""
AWAY = 3
SEATS = 2
"""How many of one key may be inside at a time."""
ROOMS = 3
"""How many keys there are."""

app = Durasleep(reach.source(), settings=reach.settings())


async def effect(label: str) -> str:
    """An effect that cannot be undone: one line, with the time."""
    line = f"{label}\t{time.time():.6f}\n".encode()
    file = os.open(Path(os.environ[EFFECTS]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line)
    finally:
        os.close(file)
    return label


def effect_in_thread(label: str) -> str:
    time.sleep(0.05)
    return asyncio.run(effect(label))


async def try_thrice(label: str) -> str:
    await effect(label)
    text = Path(os.environ[EFFECTS]).read_text()
    if text.count(f"{label}\t") < 3:
        raise ConnectionError("not yet")
    return label


@app.workflow
async def napping(ctx: Context) -> str:
    await ctx.run(effect, f"{ctx.info.id} lies down")
    await ctx.sleep(NAP_S)
    await ctx.run(effect_in_thread, f"{ctx.info.id} gets up")
    return "rested"


@app.workflow
async def child(ctx: Context, n: int) -> int:
    await ctx.sleep(n / 20)
    await ctx.run(effect, f"{ctx.info.id} grows up")
    return n


@app.workflow
async def family(ctx: Context) -> str:
    ages = await asyncio.gather(*(ctx.rpc(child, n) for n in range(20)))
    await ctx.run(effect, f"{ctx.info.id} counts")
    return f"{sum(ages)}"


@app.workflow
async def counting(ctx: Context, run: int = 1) -> str:
    for _ in range(5):
        await ctx.transaction().incr(_counter(ctx))
        await ctx.sleep(0.05)
    if run < 3:
        ctx.continue_as_new(run + 1)
    return f"{run} runs"


def counter_of(id: str) -> str:
    """The name of its counter: with several partitions a key of the application is beside its execution."""
    return f"chaos-counter-{id}"


def _counter(ctx: Context) -> str:
    name = counter_of(ctx.info.id)
    return ctx.key(name) if reach.is_cluster() else name


@app.workflow
async def trying(ctx: Context) -> str:
    await ctx.run(try_thrice, f"{ctx.info.id} tries", retry=Retry(attempts=30, delay=0.1, delay_max=0.2))
    return "done"


@app.workflow
async def waiting(ctx: Context) -> str:
    answer = await ctx.promise(name="answer", timeout=3600)
    await ctx.run(effect, f"{ctx.info.id} hears")
    return f"{answer}"


@app.workflow
async def long_child(ctx: Context) -> None:
    await ctx.sleep(3600)


PATIENT = Retry(attempts=30, delay=0.5, delay_max=2.0)


@app.workflow
async def changing_its_mind(ctx: Context) -> str:
    running = ctx.rpc(long_child)
    await ctx.sleep(0.2)
    running.cancel()
    other = ctx.rpc(long_child)
    await ctx.sleep(0.1)
    await ctx.run(cancel, other.id, retry=PATIENT)  # a client gives up after its time limit, as it should
    try:
        await other
    except Canceled:
        return await ctx.run(effect, f"{ctx.info.id} gives up")
    return "never"


async def cancel(id: str) -> None:
    await app.cancel(id)


@app.workflow
async def calling_others(ctx: Context) -> str:
    ages = await asyncio.gather(*(ctx.rpc(child, n, id=f"{ctx.info.id}-part-{n}") for n in range(PARTS)))
    await ctx.run(effect, f"{ctx.info.id} adds up")
    return f"{sum(ages)}"


@app.workflow
async def sending_away(ctx: Context) -> str:
    for id in sent_away(ctx.info.id):
        await ctx.detached(child, 1, id=id)
    return "sent"


def sent_away(id: str) -> list[str]:
    """The executions that it started detached."""
    return [f"{id}-away-{n}" for n in range(AWAY)]


HEARD = 20
"""Messages of each channel."""
HEARD_EACH = 15
"""Messages of one run."""


@app.workflow
async def hearing(ctx: Context, numbers: int = 0, words: int = 0) -> str:
    """Waits for two channels at a time, in runs that follow each other: what loses a race comes again, in order."""
    if not numbers + words:
        await ctx.detached(telling, ctx.info.id, id=teller_of(ctx.info.id))
    while numbers + words < 2 * HEARD:
        winner = await ctx.race(ctx.receive("number", int), ctx.receive("word", int))
        expected = numbers if winner.index == 0 else words
        if winner.value != expected:
            return f"{winner.value} came instead of {expected}"
        if winner.index == 0:
            numbers += 1
        else:
            words += 1
        if (numbers + words) % HEARD_EACH == 0:
            ctx.continue_as_new(numbers, words)
    return "all in order"


def teller_of(id: str) -> str:
    """Who sends to it. If a failover may lose what was confirmed, it is in the same partition: it loses the same."""
    return f"{id}-teller" if reach.settings().min_replicas else f"{{{id}}}-teller"


@app.workflow
async def telling(ctx: Context, id: str) -> None:
    """Sends from its commits and, with keys, as a client does."""
    for n in range(HEARD):
        await ctx.send(id, "number", n)
        await ctx.run(send_word, id, n, retry=PATIENT)


async def send_word(id: str, n: int) -> None:
    await app.send(id, "word", n, key=f"word-{n}")


seats = Limit("seats", per_key=SEATS, rate="20/s", burst=5, hold="life")


def _in_room(room: str) -> str:
    return room


@app.workflow(limit=seats, by=_in_room)
async def taking_a_seat(ctx: Context, room: str) -> str:
    """Those inside are counted together with the journal, so that takeovers and lost writes do not change the count."""
    name = f"chaos-inside-{room}"
    counter = ctx.key(name) if reach.is_cluster() else name
    [inside] = await ctx.transaction().incr(counter)
    await ctx.run(effect, f"{ctx.info.id} sits")
    await ctx.sleep(0.1)
    await ctx.transaction().decr(counter)
    return "in time" if inside <= SEATS else f"{inside} inside"


ALONE = "chaos-alone"
"""The schedule whose executions must not overlap."""


@app.workflow
async def one_at_a_time(ctx: Context) -> None:
    await ctx.run(effect, f"{ctx.info.id} begins")
    await ctx.sleep(0.3)
    await ctx.run(effect, f"{ctx.info.id} is over")


# -- other work, see ``around.py``


@app.task
async def echo(text: str) -> str:
    return text


@app.task
async def tick() -> None:
    """The task that schedules start."""


@app.workflow
async def sought_after(ctx: Context) -> str:
    return str(await ctx.promise(name="found"))


@app.workflow
async def asks_briefly(ctx: Context, sought: str) -> str:
    await ctx.race(ctx.rpc(sought_after, id=sought), ctx.sleep(0.1))
    return "gave up"


WORKFLOWS = (
    *(napping, family, counting, trying, waiting, changing_its_mind, calling_others, sending_away),
    *(taking_a_seat, hearing),
)


def id_of(shape: int, name: str, number: int) -> str:
    """With several partitions all executions that a limit counts together are in one."""
    return f"{{room-{number % ROOMS}}}{name}" if shape == LIMITED else name


def arguments_of(shape: int, id: str) -> tuple[str, ...]:
    """The arguments of a workflow that is started."""
    return (id[1 : id.index("}")],) if shape == LIMITED else ()


def result_of(shape: int, id: str) -> str:
    """The result that a workflow must have."""
    return ("rested", "190", "3 runs", "done", "an answer", f"{id} gives up", "28", "sent", "in time", "all in order")[
        shape
    ]


def effects_of(shape: int, id: str) -> dict[str, int]:
    """Its effects, and how often each must happen at least."""
    match shape:
        case 0:
            return {f"{id} lies down": 1, f"{id} gets up": 1}
        case 1:
            return {f"{id} counts": 1} | {f"{id}~{n} grows up": 1 for n in range(1, 21)}
        case 3:
            return {f"{id} tries": 3}
        case 4:
            return {f"{id} hears": 1}
        case 5:
            return {f"{id} gives up": 1}
        case 6:
            return {f"{id} adds up": 1} | {f"{id}-part-{n} grows up": 1 for n in range(PARTS)}
        case 7:
            return {f"{away} grows up": 1 for away in sent_away(id)}
        case 8:
            return {f"{id} sits": 1}
        case _:
            return {}


LIMITED = 8
"""The shape that has a limit."""

COUNTED = 15
"""The value that each counter of ``counting`` must have."""
