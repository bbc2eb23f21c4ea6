"""The functions with limits, and those that number their starts. They have an application of their own."""

from __future__ import annotations

import itertools

from durasleep import Context, Durasleep, Limit

app = Durasleep()
APP = "scripts.benchmarks.limited:app"
TURNS = "turns"
"""The limit under which keys take turns."""

_starts = itertools.count()  # of this worker

LIMIT_KEYS = 100
HELD = 2
"""Tasks of one key that run at a time."""
HELD_IN_ALL = 50
ROOM = 1_000_000


def key_of(value: int) -> str:
    return str(value % LIMIT_KEYS)


@app.task
async def start() -> int:
    return next(_starts)


def customer_of(customer: str) -> str:
    return customer


@app.task(limit=Limit(TURNS, total=HELD_IN_ALL), by=customer_of)
async def start_in_turn(customer: str) -> int:
    return next(_starts)


@app.task(limit=Limit("passing", per_key=ROOM, total=ROOM), by=key_of)
async def passing(value: int) -> int:
    return value


@app.task(limit=Limit("at-a-rate", rate=f"{ROOM}/s", burst=ROOM), by=key_of)
async def at_a_rate(value: int) -> int:
    return value


@app.task(limit=Limit("by-key", per_key=HELD), by=key_of)
async def by_key(value: int) -> int:
    return value


@app.task(limit=Limit("in-all", total=HELD_IN_ALL))
async def in_all(value: int) -> int:
    return value


@app.task(limit=Limit("in-turn", per_key=HELD, total=HELD_IN_ALL), by=key_of)
async def in_turn(value: int) -> int:
    return value


@app.workflow(limit=Limit("passing-sleepers", per_key=ROOM, total=ROOM), by=key_of)
async def passing_sleeper(ctx: Context, ms: int) -> int:
    await ctx.sleep(ms / 1000)
    return ms


@app.workflow(limit=Limit("lifelong-sleepers", per_key=ROOM, total=ROOM, hold="life"), by=key_of)
async def lifelong_sleeper(ctx: Context, ms: int) -> int:
    await ctx.sleep(ms / 1000)
    return ms
