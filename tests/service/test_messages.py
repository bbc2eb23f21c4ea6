"""Messages and settlements of workflows: in one partition and from one to another, through crashes and new runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from durasleep import Context, Durasleep
from durasleep.client.client import store_of
from durasleep.codec import Codec
from durasleep.errors import Canceled, DurasleepError, NotAllowed, TimedOut
from durasleep.model import Due, PromiseId
from durasleep.protocol import channels, sorted_sets
from durasleep.protocol.keys import meta_key
from durasleep.protocol.versions import CHANNELS
from durasleep.query import declaring
from durasleep.settings import DEFAULTS
from durasleep.worker.loops.relay import Relay
from harness import versions
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double
from tests.service.workers import Workers, eventually, serving, until

PARTITIONS = 4
CODEC = Codec()


@pytest.fixture
async def wide(app: Durasleep) -> Durasleep:
    """An application whose namespace has several partitions, and needs what messages need."""
    await app.init(partitions=PARTITIONS)
    store = await store_of(app)
    await store.run(declaring.require(store.keyspaces, CHANNELS))
    return app


async def elsewhere(app: Durasleep, id: str, name: str, count: int = 1) -> list[str]:
    """Ids that belong to another partition than ``id``."""
    store = await store_of(app)
    found = [f"{name}-{n}" for n in range(100) if store.keys(f"{name}-{n}") is not store.keys(id)]
    return found[:count]


async def send(app: Durasleep, id: str, channel: str, number: int) -> str:
    """From outside."""
    store = await store_of(app)
    value = CODEC.encode(number, "a message")
    call = channels.send(store.keys(id), PromiseId(id), channel, value, channels.new_call())
    return (await store.call(call)).delivery


async def nothing_left(app: Durasleep) -> bool:
    store = await store_of(app)
    timers = await store.ask([sorted_sets.list_members(keys.timers) for keys in store.keyspaces])
    left = [member for members in timers for member, _ in members if not member.endswith("~mail")]
    return not left and (await app.fsck()).is_clean


class Held:
    """The relays ask nothing as long as this is held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        ask = Relay._ask  # pyright: ignore[reportPrivateUsage]

        async def held(relay: Relay, *rest: Any) -> None:
            self.asked.set()
            await self.gate.wait()
            await ask(relay, *rest)

        monkeypatch.setattr(Relay, "_ask", held)


# -- workflows


async def reads(ctx: Context, count: int) -> list[int]:
    return [await ctx.receive("x", int) for _ in range(count)]


async def sends(ctx: Context, to: str, numbers: list[int]) -> list[str]:
    return [await ctx.send(to, "x", number) for number in numbers]


async def sends_and_ends(ctx: Context, to: str, numbers: list[int]) -> str:
    for number in numbers:
        ctx.send(to, "x", number)
    return "ended"


async def settles(ctx: Context, id: str) -> list[bool]:
    return [await ctx.settle(id, value) for value in ("first", "second")]


async def is_refused(ctx: Context, targets: list[str]) -> list[str]:
    said: list[str] = []
    for target in targets:
        for call in (ctx.send(target, "x", "a" * 1000), ctx.settle(target, 1)):
            try:
                await call
                said.append("done")
            except DurasleepError as error:
                said.append(type(error).__name__)
    return said


async def rests(ctx: Context) -> str:
    await ctx.sleep(3600)
    return "rested"


async def quick(ctx: Context) -> str:
    return "done"


FUNCTIONS: list[Callable[..., Coroutine[Any, Any, Any]]] = [
    reads,
    sends,
    sends_and_ends,
    settles,
    is_refused,
    rests,
    quick,
]


def add_all(app: Durasleep) -> Durasleep:
    for fn in FUNCTIONS:
        app.workflow(fn)
    return app


# -- from one partition to another


async def test_awaited_messages_arrive_elsewhere_once_and_in_order(wide: Durasleep) -> None:
    [there] = await elsewhere(wide, "sender", "reader")
    async with serving(add_all(wide), "w1"), serving(wide, "w2"):
        reading = await wide.rpc(there, reads, 3)
        await until(wide, there, "suspended")
        words = await (await wide.rpc("sender", sends, there, [1, 2, 3]))
        assert words[0] == "delivered"
        assert await reading == [1, 2, 3]
        await eventually(lambda: nothing_left(wide), "all to be told")


async def test_an_end_waits_until_all_that_it_has_sent_is_there(wide: Durasleep) -> None:
    [there] = await elsewhere(wide, "sender", "reader")
    numbers = list(range(20))
    async with serving(add_all(wide)):
        reading = await wide.rpc(there, reads, len(numbers))
        sending = await wide.rpc("sender", sends_and_ends, there, numbers)
        assert await sending == "ended"
        assert sorted(await reading) == numbers, "they may change places"
        await eventually(lambda: nothing_left(wide), "all to be told")


async def test_a_promise_elsewhere_is_settled_once(wide: Durasleep) -> None:
    [there] = await elsewhere(wide, "settler", "promise")
    promise = await wide.promises.create(there)
    async with serving(add_all(wide)):
        assert await (await wide.rpc("settler", settles, there)) == [True, False]
        assert await promise == "first"
        await eventually(lambda: nothing_left(wide), "all to be told")


@pytest.mark.parametrize("is_elsewhere", [True, False])
async def test_what_cannot_be_sent_says_why_and_ends_nothing(wide: Durasleep, is_elsewhere: bool) -> None:
    store = await store_of(wide)
    names = [f"{{there}}:{name}" for name in ("gone", "ended", "rests", "promise", "full")]
    _, ended, resting, promise, full = names
    here = (await elsewhere(wide, ended, "sender"))[0] if is_elsewhere else "{there}:sender"
    async with serving(add_all(wide)):
        await (await wide.rpc(ended, quick))
        for id in (resting, full):
            await wide.rpc(id, rests)
        await wide.promises.create(promise)
        for _ in range(4):
            call = channels.send(store.keys(full), PromiseId(full), "y", b"1" * 262_000, channels.new_call())
            await store.call(call)
        said = await (await wide.rpc(here, is_refused, names))
        assert said == [
            *("NotFound", "NotFound"),
            *("Ended", "NotAllowed"),
            *("done", "NotAllowed"),
            *("NotAllowed", "done"),
            *("MailboxFull", "NotAllowed"),
        ]
        for id in (resting, full):
            await wide.cancel(id, force=True)
        await eventually(lambda: nothing_left(wide), "all to be told")


@pytest.mark.long
async def test_workers_that_are_killed_while_they_carry_it_lose_and_double_nothing(wide: Durasleep) -> None:
    [there] = await elsewhere(wide, "sender", "reader")
    add_all(wide)
    reading = await wide.rpc(there, reads, 6)
    sending = await wide.rpc("sender", sends, there, [1, 2, 3])
    ending = await wide.rpc("other", sends_and_ends, there, [7, 8, 9])
    for n in range(6):
        async with serving(wide, f"w{n}") as worker:
            await asyncio.sleep(0.02 * n)
            worker.crash()
    async with serving(wide, "last"):
        assert sorted(await reading) == [1, 2, 3, 7, 8, 9]
        assert (await ending, len(await sending)) == ("ended", 3)
        await eventually(lambda: nothing_left(wide), "all to be told")


# -- an ending that waits for what it has sent


async def goes_on(ctx: Context, to: str, run: int) -> list[int]:
    """Its first run ends while a message to another partition is under way, and it still waits for messages itself."""
    if run == 0:
        waiting = [ctx.receive("x", int) for _ in range(3)]
        await ctx.sleep(0.01)  # so that they wait for messages
        ctx.send(to, "x", 1)
        del waiting
        ctx.continue_as_new(to, 1)
    return [await ctx.receive("x", int) for _ in range(4)]


async def test_messages_that_come_while_an_end_waits_are_for_the_next_run_in_order(
    wide: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    [there] = await elsewhere(wide, "goes", "rests")
    add_all(wide).workflow(goes_on)
    async with serving(wide):
        await wide.rpc(there, rests)
        going = await wide.rpc("goes", goes_on, there, 0)
        await until(wide, "goes", "suspended")
        await held.asked.wait()
        for number in range(4):
            await send(wide, "goes", "x", number)
        await until(wide, "goes", "suspended")
        held.gate.set()
        assert await going == [0, 1, 2, 3]
        await wide.cancel(there, force=True)
        await eventually(lambda: nothing_left(wide), "all to be told")


async def test_a_cancel_that_comes_while_a_new_run_waits_to_begin_ends_it(
    wide: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    [there] = await elsewhere(wide, "goes", "rests")
    add_all(wide).workflow(goes_on)
    async with serving(wide):
        await wide.rpc(there, rests)
        going = await wide.rpc("goes", goes_on, there, 0)
        await until(wide, "goes", "suspended")
        await wide.cancel("goes")
        held.gate.set()
        with pytest.raises(Canceled):
            await going
        await wide.cancel(there, force=True)
        await eventually(lambda: nothing_left(wide), "all to be told")


# -- one after another


async def answers_all(ctx: Context) -> list[Any]:
    """Answers each message by its half, or with an error, until none comes for a moment."""
    seen: list[Any] = []
    async for message in ctx.messages("x", int, timeout=0.5):
        error = ValueError("odd") if message.value % 2 else None
        heard = await message.reply(message.value // 2, error=error)
        seen.append([message.value, message.wants_reply, heard])
    return seen


@pytest.mark.parametrize("always_suspend", [True, False])
async def test_messages_are_answered_one_after_another_until_none_comes(new_app: NewApp, always_suspend: bool) -> None:
    app = new_app(settings=replace(DEFAULTS, always_suspend=always_suspend, debug=True))
    store = await store_of(app)
    await store.run(declaring.require(store.keyspaces, CHANNELS))
    app.workflow(answers_all)
    keys, id = store.keys("answers"), PromiseId("answers")
    asked = ["{answers}:1", "{answers}:2", ""] if len(store.keyspaces) > 1 else ["r1", "r2", ""]
    answering = await app.rpc("answers", answers_all)
    for number, reply in enumerate(asked, 4):
        options: dict[str, Any] = {"reply": PromiseId(reply), "due": Due("+60000"), "inbox": "me"} if reply else {}
        value = CODEC.encode(number, "a message")
        await store.call(channels.send(keys, id, "x", value, channels.new_call(), **options))
    async with serving(app):
        assert await answering == [[4, True, True], [5, True, True], [6, False, False]]
        assert await app.get(asked[0]).result() == 2
        with pytest.raises(ValueError, match="odd"):
            await app.get(asked[1]).result()


# -- runs and workers


async def counts(ctx: Context, seen: int, each: int, total: int) -> int:
    """Reads some messages a run, and says with an error if one is lost, doubled or out of order."""
    for _ in range(each):
        number = await ctx.receive("x", int)
        if number != seen:
            raise ValueError(f"{number} came after {seen - 1}")
        seen += 1
    if seen < total:
        ctx.continue_as_new(seen, each, total)
    return seen


async def test_many_messages_pass_through_runs_that_follow_each_other(new_app: NewApp) -> None:
    total = 600
    app = new_app(settings=replace(DEFAULTS, always_suspend=True))
    store = await store_of(app)
    await store.run(declaring.require(store.keyspaces, CHANNELS))
    app.workflow(counts)
    async with serving(app, "w1"), serving(app, "w2"):
        counting = await app.rpc("reader", counts, 0, 20, total)
        for number in range(total):
            await send(app, "reader", "x", number)
        assert await counting == total


async def races(ctx: Context, total: int) -> list[int]:
    """Asks twice at a time, takes the first that comes, and gives the other one up."""
    got: list[int] = []
    while len(got) < total:
        one, other = ctx.receive("x", int), ctx.receive("x", int)
        done, pending = await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)
        for future in pending:
            future.cancel()
        got += [future.result() for future in done]
        await asyncio.sleep(0)
    return got


@pytest.mark.parametrize("always_suspend", [True, False])
async def test_receives_that_race_lose_no_message(new_app: NewApp, always_suspend: bool) -> None:
    total = 60
    app = new_app(settings=replace(DEFAULTS, always_suspend=always_suspend, debug=True))
    store = await store_of(app)
    await store.run(declaring.require(store.keyspaces, CHANNELS))
    app.workflow(races)
    async with serving(app, "w1"), serving(app, "w2"):
        racing = await app.rpc("reader", races, total)
        await asyncio.gather(*(send(app, "reader", "x", number) for number in range(total)))
        assert sorted(await racing) == list(range(total))


# -- beside an older version


BEFORE = "71906c64"
"""The last commit without messages."""


async def told_in_vain(ctx: Context, other: str) -> str:
    """What only this version knows: a receive whose time is up, and messages to another partition."""
    ctx.send(other, "x", 1)
    try:
        await ctx.receive("x", int, timeout=0.01)
    except TimedOut:
        return "timed out"
    return "never"


@pytest.mark.long
async def test_while_an_older_version_works_nothing_is_sent_and_then_it_works_no_more(
    new_app: NewApp, workers: Workers, tmp_path: Path
) -> None:
    old = versions.of_commit(BEFORE, tmp_path / "old")
    if old is None:
        pytest.skip("the history of the repository is not at hand")
    app = add_all(new_app(settings=QUICK))
    older = await workers.begin("older", package=old, module="older").ready()
    store = await store_of(app)
    with pytest.raises(NotAllowed, match=r"messages and published values can be used when no .* there are older$"):
        await store.run(declaring.require(store.keyspaces, CHANNELS))
    async with serving(app, "newer"):
        reading = await app.rpc("reader", reads, 2)
        assert await (await app.rpc("plain", double, 2)).result(30) == 4
        described = await until(app, "reader", "delayed")
        assert "have to wait until no worker of an older version is left" in (described.reason or "")
        await older.kill()
        await until(app, "reader", "suspended")
        assert await (await app.rpc("sender", sends, "reader", [1, 2])).result(30)
        assert await reading.result(30) == [1, 2]
        late = workers.begin("late", package=old, module="older")
        assert await late.exited() != 0
        assert "needs channels, which this version of durasleep does not know" in late.log()


@pytest.mark.long
async def test_what_an_older_version_finds_it_leaves_to_this_one(
    wide: Durasleep, real_server: Server, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been put back while messages were under way."""
    old = versions.of_commit(BEFORE, tmp_path / "old")
    if old is None:
        pytest.skip("the history of the repository is not at hand")
    [there] = await elsewhere(wide, "teller", "reader")
    add_all(wide).workflow(told_in_vain)
    store, client = await store_of(wide), real_server.sync_client()
    reading = await wide.rpc(there, reads, 3)
    for number in (1, 2):
        await send(wide, there, "y", number)
    with monkeypatch.context() as patch:
        Held(patch)
        async with serving(wide):
            telling = await wide.rpc("teller", told_in_vain, there)
            await until(wide, there, "suspended")
            await eventually(lambda: store.call(sorted_sets.count_members(store.keys("teller").timers)), "it to ask")
    meta = meta_key(store.namespace)
    features = client.hget(meta, "features")
    client.hdel(meta, "features")
    older = await workers.begin("older", package=old, module="older").ready()
    before = client.hgetall(store.keys(there).promise(there)), client.hgetall(f"{store.keys(there).tag}mail:{there}")
    for id in ("plain-1", "plain-2", "plain-3", "plain-4", "plain-5", "plain-6"):
        assert await (await wide.rpc(id, double, 2)).result(30) == 4, "it does its own work"
    assert before == (
        client.hgetall(store.keys(there).promise(there)),
        client.hgetall(f"{store.keys(there).tag}mail:{there}"),
    )
    assert [one.kind for one in (await wide.fsck()).findings] == []
    await older.kill()
    client.hset(meta, "features", features)
    async with serving(wide):
        assert await telling.result(30) == "timed out"
        for number in (2, 3):
            await send(wide, there, "x", number)
        assert sorted(await reading.result(30)) == [1, 2, 3]
