"""A move between two namespaces, and everything that can be in the old one while no worker serves it."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from durasleep import Context, Durasleep, Retry
from durasleep.client.carrier import Report
from durasleep.client.client import store_of
from durasleep.client.move import between
from durasleep.codec import Codec
from durasleep.errors import NotFound
from durasleep.model import PromiseId
from durasleep.protocol import channels, foreign
from durasleep.protocol.command import Command
from durasleep.protocol.script import Value
from durasleep.protocol.versions import CHANNELS
from durasleep.query import declaring
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.connection import Link
from durasleep.worker.loops.relay import Relay
from tests.service.workers import eventually, serving, until

LONG = timedelta(days=90)
TIMERS = 1_500  # more than one call sets
MANY = 40  # waiters: more than a field names
LARGE = "x" * 600_000

effects: Counter[str] = Counter()
"""How often each step has run."""
gates: list[asyncio.Event] = []
"""The last of them is the one at which a step stands."""


async def note(label: str) -> str:
    effects[label] += 1
    return label


async def stand(label: str) -> str:
    effects[label] += 1
    await gates[-1].wait()
    return label


async def rest(ctx: Context, label: str) -> str:
    first = await ctx.run(note, f"{label} lies down")
    await ctx.sleep(LONG)
    return f"{first}, {await ctx.run(note, f'{label} gets up')}"


async def step(ctx: Context, label: str) -> str:
    await ctx.run(note, f"{label} comes")
    return await ctx.run(stand, f"{label} stands")


async def quick(ctx: Context, label: str) -> str:
    return await ctx.run(note, f"{label} was quick")


async def waits_for(ctx: Context, other: str) -> str:
    return await ctx.rpc(rest, other, id=other)


async def calls(ctx: Context, other: str) -> str:
    return await ctx.rpc(quick, other, id=other)


async def starts_detached(ctx: Context, other: str) -> str:
    return await ctx.detached(rest, other, id=other)


async def family(ctx: Context, deep: int) -> list[str]:
    done = await ctx.rpc(quick, f"{ctx.info.id}")
    below = await ctx.rpc(family, deep - 1) if deep else [await ctx.rpc(rest, f"{ctx.info.id}")]
    return [done, *below]


async def promised(ctx: Context) -> Any:
    return await ctx.promise(name="approval", timeout=LONG)


async def listens(ctx: Context, count: int) -> list[str]:
    first = ctx.receive("x", str, timeout=LONG)
    return [await first, *[await ctx.receive("y", str) for _ in range(count)]]


async def tells(ctx: Context, other: str) -> str:
    return await ctx.send(other, "y", f"from {ctx.info.id}")


async def many_timers(ctx: Context) -> int:
    texts = [len(await ctx.run(large_text)) for _ in range(3)]
    await asyncio.gather(*(ctx.sleep(LONG) for _ in range(TIMERS)))
    return sum(texts)


async def large_text() -> str:
    return LARGE


async def fails(ctx: Context, label: str) -> None:
    await ctx.run(note, f"{label} fails")
    raise ValueError(label)


async def renewed(ctx: Context, run: int = 1) -> str:
    if run < 3:
        ctx.continue_as_new(run + 1)
    await ctx.sleep(LONG)
    return await ctx.run(note, f"run {run}")


async def undone(ctx: Context) -> None:
    ctx.on_cancel(note, "undone")
    await ctx.sleep(LONG)


async def second_time(label: str) -> str:
    effects[label] += 1
    if effects[label] == 1:
        raise ConnectionError("not yet")
    return label


def register(app: Durasleep) -> Durasleep:
    for fn in (
        rest,
        step,
        quick,
        waits_for,
        calls,
        starts_detached,
        family,
        promised,
        many_timers,
        fails,
        renewed,
        undone,
        listens,
        tells,
    ):
        app.workflow(fn)
    app.task(retry=Retry(attempts=3, delay=3600.0))(second_time)
    return app


class Removal:
    """The two namespaces of a move, each on its server."""

    def __init__(self, url: str, new_url: str) -> None:
        self.url, self.new_url = url, new_url
        self.namespace = f"t{secrets.token_hex(6)}"
        self.new_namespace = f"{self.namespace}-new"
        self._apps: list[Durasleep] = []

    def old(self, settings: Settings = DEFAULTS) -> Durasleep:
        """An application on the old namespace."""
        return self._app(self.url, self.namespace, settings)

    def new(self, settings: Settings = DEFAULTS) -> Durasleep:
        """An application on the new namespace."""
        return self._app(self.new_url, self.new_namespace, settings)

    def _app(self, url: str, namespace: str, settings: Settings) -> Durasleep:
        app = register(Durasleep(url, namespace=namespace, settings=settings))
        self._apps.append(app)
        return app

    async def move(self, partitions: int, **options: Any) -> Report:
        names = (self.url, self.namespace, self.new_url, self.new_namespace)
        async with between(*names, partitions=partitions, **options) as move:
            return await move.run()

    def go_on(self, url: str) -> None:
        """From the new namespace to a third one."""
        self.url, self.namespace = self.new_url, self.new_namespace
        self.new_url, self.new_namespace = url, f"{self.new_namespace}-2"

    def forget_old(self, client: Any) -> None:
        """Delete what a move has left behind."""
        client.delete(*client.scan_iter(match=f"{{{self.namespace}:*", count=1000))

    async def close(self) -> None:
        for app in self._apps:
            await app.aclose()


async def require_channels(app: Durasleep) -> None:
    store = await store_of(app)
    await store.run(declaring.require(store.keyspaces, CHANNELS))


async def send(app: Durasleep, id: str, channel: str, value: str, key: str | None = None) -> str:
    """From outside."""
    store = await store_of(app)
    payload = Codec().encode(value, "a message")
    call = channels.send(store.keys(id), PromiseId(id), channel, payload, channels.new_call(), key=key)
    return (await store.call(call)).delivery


class Population:
    """Executions of every kind in every place, and how each ends."""

    ends: dict[str, object]

    async def fill(self, app: Durasleep, partitions: int) -> None:
        """Fill a namespace; at the end no worker is left, and some have died while they worked."""
        gates.append(asyncio.Event())
        effects.clear()
        self.ends = {}
        await app.init(partitions=partitions)
        async with serving(app, "first"):
            await self._begin(app)
        await self._begin_unasked(app)
        await self._begin_untold(app)
        await self._begin_unheard(app)
        async with serving(app, "dying") as worker:
            await app.rpc("stands", step, "stands")
            await eventually(lambda: effects["stands stands"], "the step to stand")
            worker.crash()
        self.ends["stands"] = "stands stands"
        await self._begin_without_workers(app)  # after the crash, which may only repeat the step that stands
        await app.rpc("queued", quick, "queued")
        self.ends["queued"] = "queued was quick"

    async def _begin(self, app: Durasleep) -> None:
        for n in range(8):
            await self._asleep(app, f"sleeper-{n}")
            await app.rpc(f"waits-{n}", waits_for, f"child-{n}")
            await app.rpc(f"starter-{n}", starts_detached, f"detached-{n}")
            self.ends[f"waits-{n}"] = self.ends[f"child-{n}"] = f"child-{n} lies down, child-{n} gets up"
            self.ends[f"starter-{n}"] = f"detached-{n}"
            self.ends[f"detached-{n}"] = f"detached-{n} lies down, detached-{n} gets up"
        for n in range(MANY):
            await app.rpc(f"one-of-{n}", waits_for, "popular")
            self.ends[f"one-of-{n}"] = "popular lies down, popular gets up"
        self.ends["popular"] = self.ends["one-of-0"]
        await app.rpc("family", family, 2)
        await app.rpc("promised", promised)
        self.ends["promised"] = "approved"
        await app.promises.create("free", timeout=LONG)
        await app.promises.create("free-timer", timeout=LONG, timer=True)
        await app.rpc("timers", many_timers)
        self.ends["timers"] = 3 * len(LARGE)
        await app.rpc("renewed", renewed)
        self.ends["renewed"] = "run 3"
        await app.rpc("tries-again", second_time, "tried")
        self.ends["tries-again"] = "tried"
        await app.rpc("canceled", undone)
        await self._asleep(app, "halted")
        await app.options(timeout=LONG).rpc("has-time", rest, "has-time")
        self.ends["has-time"] = "has-time lies down, has-time gets up"
        for id in ("done", "kept"):
            options = app.options(retention="7d" if id == "done" else "forever")
            await (await options.rpc(id, quick, id)).result()
            self.ends[id] = f"{id} was quick"
        await require_channels(app)
        for n in range(8):
            await app.rpc(f"listens-{n}", listens, 3)
            await until(app, f"listens-{n}", "suspended")
            await send(app, f"listens-{n}", "y", "early", key="k")
            self.ends[f"listens-{n}"] = ["late", "early", f"from unheard-{n}", f"from unsent-{n}"]
        failed = await app.rpc("failed", fails, "failed")
        await asyncio.gather(failed.result(), return_exceptions=True)
        await app.schedule("yearly", "0 0 1 1 *", quick, "yearly")
        await self._until_asleep(app)

    async def _asleep(self, app: Durasleep, id: str) -> None:
        await app.rpc(id, rest, id)
        self.ends[id] = f"{id} lies down, {id} gets up"

    async def _until_asleep(self, app: Durasleep) -> None:
        """Everything waits for something that is far away."""
        waiting = ("family~2~2~2", "promised", "timers", "renewed", "canceled", "popular", "halted", "has-time")
        for id in (*waiting, *(f"{name}-{n}" for n in range(8) for name in ("sleeper", "waits", "child", "detached"))):
            await self._until(app, id, "suspended")
        for n in range(MANY):
            await until(app, f"one-of-{n}", "suspended")
        for n in range(8):
            await until(app, f"starter-{n}", "done")
        await until(app, "tries-again", "delayed")

    async def _until(self, app: Durasleep, id: str, status: str) -> None:
        """Wait until it has this status; it may not exist yet."""
        await eventually(lambda: self._exists(app, id), f"{id} to be called")
        await until(app, id, status)

    async def _begin_unasked(self, app: Durasleep) -> None:
        """What is asked of other partitions has not arrived there."""

        def take_nothing(*_: object) -> None:
            pass

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Relay, "take", take_nothing)
            async with serving(app, "silent"):
                for n in range(8):
                    await app.rpc(f"asks-{n}", waits_for, f"asked-{n}")
                    await app.rpc(f"asks-detached-{n}", starts_detached, f"asked-detached-{n}")
                    for id in (f"asked-{n}", f"asked-detached-{n}"):
                        self.ends[id] = f"{id} lies down, {id} gets up"
                    self.ends[f"asks-{n}"] = self.ends[f"asked-{n}"]
                    self.ends[f"asks-detached-{n}"] = f"asked-detached-{n}"
                    await until(app, f"asks-{n}", "suspended")
                    await eventually(lambda n=n: self._is_idle(app, f"asks-detached-{n}"), "it to ask")

    async def _begin_unheard(self, app: Durasleep) -> None:
        """Messages are in mailboxes of other partitions, and their senders have not heard of it; or they have not
        arrived there.
        """

        async def only_pose(relay: Any, there: Any, asks: Any) -> None:
            await relay._store.ask([foreign.pose(there, ask, relay._keys) for ask in asks])

        def take_nothing(*_: object) -> None:
            pass

        for name, method, instead in (("unheard", "_ask", only_pose), ("unsent", "take", take_nothing)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Relay, method, instead)
                async with serving(app, name):
                    for n in range(8):
                        await app.rpc(f"{name}-{n}", tells, f"listens-{n}")
                        self.ends[f"{name}-{n}"] = "stored"
                        await eventually(lambda one=f"{name}-{n}": self._is_idle(app, one), "it to send")
                        if name == "unheard":
                            await eventually(lambda n=n: self._has_mail(app, f"listens-{n}", 2), "it to arrive")

    async def _has_mail(self, app: Durasleep, id: str, count: int) -> bool:
        store = await store_of(app)
        found = await store.call(Command([b"HGET", f"{store.keys(id).tag}mail:{id}".encode(), b"n"], bytes))
        return found.startswith(b"%d " % count)

    async def _begin_untold(self, app: Durasleep) -> None:
        """What has ended is not known in other partitions."""

        async def stay_silent(*_: object) -> None:
            pass

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Relay, "_tell", stay_silent)
            async with serving(app, "discreet"):
                for n in range(8):
                    await app.rpc(f"untold-{n}", calls, f"secret-{n}")
                    self.ends[f"untold-{n}"] = self.ends[f"secret-{n}"] = f"secret-{n} was quick"
                    await self._until(app, f"secret-{n}", "done")
                    await eventually(lambda n=n: self._is_idle(app, f"untold-{n}"), "it to wait")

    async def _is_idle(self, app: Durasleep, id: str) -> bool:
        return (await app.describe(id)).status in ("suspended", "done")

    async def _exists(self, app: Durasleep, id: str) -> bool:
        try:
            return (await app.describe(id)).id == id
        except NotFound:
            return False

    async def _begin_without_workers(self, app: Durasleep) -> None:
        await app.cancel("canceled")
        await app.halt("halted", "look at it")
        await app.options(delay=LONG).rpc("delayed", quick, "delayed")
        self.ends["delayed"] = "delayed was quick"
        await app.options(target="poll://uni@workers/second").rpc("for-one", quick, "for-one")
        self.ends["for-one"] = "for-one was quick"

    async def finish(self, app: Durasleep) -> None:
        """Everything goes on where it was, and ends; each step has run once, except the one whose worker had died."""
        gates[-1].set()
        async with serving(app, "first"), serving(app, "second"):
            assert await app.promises.resolve("free", 5)
            assert await app.promises.resolve("promised~1", "approved")
            await app.wake("free-timer")
            await app.resume("halted")
            for id in ("delayed", "tries-again"):
                await app.wake(id)
            await require_channels(app)
            for n in range(8):
                id = f"listens-{n}"
                assert await send(app, id, "y", "again", key="k") == "duplicate"
                await eventually(lambda one=id: self._has_mail(app, one, 3), "all messages to arrive")
                assert await send(app, id, "x", "late") == "delivered"
            left = {id: app.get(id) for id in self.ends}
            waking = asyncio.create_task(_wake_all(app))
            try:
                for id, handle in left.items():
                    assert await handle.result(30) == self.ends[id], id
                assert len(await app.get("family").result(30)) == 4
            finally:
                waking.cancel()
                await asyncio.gather(waking, return_exceptions=True)
            assert await app.get("free").result() == 5
            assert (await app.describe("canceled")).state == "canceled"
            assert (await app.describe("failed")).state == "rejected"
            left_over: list[object] = []

            async def is_quiet() -> bool:
                left_over[:] = [timer for timer in await app.timers() if timer.kind not in ("cron", "mail")]
                left_over.extend((await app.fsck()).findings)
                return not left_over

            try:
                await eventually(is_quiet, "all to be told")
            except AssertionError:
                raise AssertionError(left_over) from None
        often = {label: times for label, times in effects.items() if times != 1}
        assert often == {"stands stands": 2, "tried": 2}, often
        assert effects["undone"] == 1


async def _wake_all(app: Durasleep) -> None:
    while True:
        for timer in await app.timers(1000):
            if timer.kind == "timer":
                await app.wake(timer.id)
        await asyncio.sleep(0.05)


def contents(client: Any, namespace: str) -> dict[str, Any]:
    """What is in a namespace, in a form in which two can be compared: without entries of streams, and instants."""
    found: dict[str, Any] = {}
    for key in client.scan_iter(match=f"{{{namespace}:*", count=1000):
        name = key.decode().replace(namespace, "NAMESPACE")
        kind = name.partition("}:")[2].partition(":")[0]
        if kind in ("inbox", "worker", "wake", "workers"):
            continue
        match client.type(key):
            case b"hash":
                fields = {name: value for name, value in client.hgetall(key).items() if name != b"n"}
                if b"w" in fields:
                    fields[b"w"] = sorted(fields[b"w"].split(b"\n"))
                found[name] = (fields, client.pttl(key) > 0)
            case b"zset":
                found[name] = dict(client.zrange(key, 0, -1, withscores=True))
            case b"set":
                found[name] = client.smembers(key)
            case b"stream":
                found[name] = [fields.get(b"i") for _, fields in client.xrange(key)]
            case _:
                found[name] = client.get(key)
    return found


Dump = dict[bytes, tuple[bytes, int]]
"""Keys as the server dumps them, and when they expire."""


def keep(client: Any, namespace: str) -> Dump:
    """Everything in a namespace, its meta hash too."""
    keys = [*client.scan_iter(match=f"{{{namespace}:*", count=1000), f"{{{namespace}}}:meta".encode()]
    return {key: (client.dump(key), max(client.pttl(key), 0)) for key in keys}


def put_back(client: Any, kept: Dump, *namespaces: str) -> None:
    """The namespaces have this, and nothing else."""
    for namespace in namespaces:
        for key in [*client.scan_iter(match=f"{{{namespace}:*", count=1000), f"{{{namespace}}}:meta".encode()]:
            client.delete(key)
    for key, (dump, ttl_ms) in kept.items():
        client.restore(key, ttl_ms, dump)


class Interrupted(Exception):
    """The move was interrupted."""


class Interruption:
    """Counts the exchanges of a move, and ends it just after one of them, before its answer is known."""

    def __init__(self) -> None:
        self.passed = 0
        """Exchanges so far."""
        self._at: int | None = None

    def arm(self, at: int | None) -> None:
        """Count from the beginning again; None to end it nowhere."""
        self.passed, self._at = 0, at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        exchange = Link.exchange

        async def watched(link: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Any]:
            if not link._name.endswith("/move"):  # pyright: ignore[reportPrivateUsage]
                return await exchange(link, commands, block_s=block_s)
            replies = await exchange(link, commands, block_s=block_s)
            self.passed += 1
            if self.passed - 1 == self._at:
                raise Interrupted
            return replies

        patch.setattr(Link, "exchange", watched)
