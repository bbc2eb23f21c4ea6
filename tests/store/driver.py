"""A worker, a client and a person by hand: one store call a line, and looks at what Redis holds afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, cast

from durasleep.model import CommitAction, Due, Entry, Kind, Number, Op, Place, PromiseId, StartChild, State, group_of
from durasleep.protocol import channels, commit, membership, promises, timers
from durasleep.protocol.channels import Sent
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.journal import Loaded, PromiseRecord
from durasleep.protocol.keys import LIMIT, F, Keyspace
from durasleep.protocol.membership import Beat, Reclaimed
from durasleep.protocol.promises import Controlled, Created, Settled
from durasleep.protocol.timers import Fired
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.connector import Connector
from durasleep.transport.reply_errors import Reply
from durasleep.transport.store import Store

WORKER = "w1/aaaaaaaa"
OTHER = "w2/bbbbbbbb"
PAST = Due("=1")
"""Due at the beginning of 1970: it fires at once, whatever the server's clock shows."""
FAR = Due("+3600000")


def child(number: str, id: str | None = None, *, function: str = "g", due: Due | None = None) -> StartChild:
    """Another execution, as a workflow asks for it; with an id of its own if one is given."""
    return StartChild(Number(number), function, b"args", None, due, PromiseId(id) if id else None)


def bytes_of(reply: Reply) -> int:
    """What a reply carries, without its structure."""
    if isinstance(reply, list):
        return sum(map(bytes_of, cast("list[Reply]", reply)))
    return len(reply) if isinstance(reply, bytes) else 0


class Driver:
    """One namespace on one server, driven call by call."""

    def __init__(self, client: Any, namespace: str, settings: Settings = DEFAULTS, *, patience_s: float = 5.0) -> None:
        self.redis: Any = client
        self.namespace = namespace
        self.store = Store(Connector.of(client), namespace=namespace, settings=settings, patience_s=patience_s)
        self.partition = -1
        """Which one it drives. By default the last, to which all ids of a test belong, see ``in_one_partition``."""
        self._calls = 0
        self._taken: dict[PromiseId, Lease] = {}

    @property
    def keys(self) -> Keyspace:
        return self.store.keyspaces[self.partition]

    def own_key(self, name: str) -> str:
        """A key of the user for transactions: any, or with several partitions one beside the execution."""
        return f"{self.keys.own if len(self.store.keyspaces) > 1 else self.namespace + '-'}{name}"

    # -- what clients do

    async def create(
        self,
        id: str,
        function: str = "f",
        *,
        kind: Kind = Kind.EXECUTION,
        queue: str = "workers",
        args: bytes = b"",
        start: Due | None = None,
        deadline: Due | None = None,
        idempotency_key: str = "",
        inbox: str = "",
        retention_ms: int | None = None,
        traits: str = "",
        trace: str = "",
    ) -> Created:
        self._calls += 1
        execution = kind is Kind.EXECUTION
        return await self.store.call(
            promises.create(
                self.keys,
                PromiseId(id),
                kind=kind,
                function=function if execution else "",
                queue=queue if execution else "",
                args=args,
                start=start,
                deadline=deadline,
                idempotency_key=idempotency_key or f"call-{self._calls}",
                inbox=inbox,
                retention="" if retention_ms is None else str(retention_ms),
                traits=traits,
                trace=trace,
            )
        )

    async def settle(self, id: str, state: State = State.RESOLVED, value: bytes = b"") -> Settled:
        return await self.store.call(promises.settle(self.keys, PromiseId(id), state, value))

    async def control(self, action: str, id: str, *, due: Due | None = None, reason: str = "") -> Controlled:
        return await self.store.call(promises.control(self.keys, action, PromiseId(id), due=due, reason=reason))

    async def send(
        self,
        id: str,
        channel: str = "x",
        value: bytes = b"",
        *,
        call: str | None = None,
        key: str | None = None,
        start: str | None = None,
        reply: str = "",
        due: Due | None = None,
        inbox: str = "",
    ) -> Sent:
        """``start`` is the function that it begins if there is none; ``inbox`` is whose question it is."""
        begin = None
        if start is not None:
            begin = promises.create(
                self.keys,
                PromiseId(id),
                kind=Kind.EXECUTION,
                function=start,
                queue="workers",
                args=b"",
                idempotency_key="begun",
            )
        return await self.store.call(
            channels.send(
                self.keys,
                PromiseId(id),
                channel,
                value,
                channels.new_call() if call is None else call,
                key=key,
                start=begin,
                reply=PromiseId(reply) if reply else None,
                due=due,
                inbox=inbox,
            )
        )

    # -- what workers do

    async def join(self, queue: str = "workers") -> None:
        group = group_of(queue)
        await self.redis.execute_command("XGROUP", "CREATE", self.keys.queue(queue), group, "0", "MKSTREAM")

    async def read(self, count: int = 1, *, consumer: str = WORKER, queue: str = "workers") -> list[Lease]:
        """What XREADGROUP gives a worker, as leases."""
        stream, group = self.keys.queue(queue), group_of(queue)
        if not await self.redis.exists(stream) or not await self.redis.xinfo_groups(stream):
            await self.join(queue)
        found = await self.redis.xreadgroup(group, consumer, {stream: ">"}, count=count)
        rows = [row for _, rows in found for row in rows]
        return [
            self.lease(fields[b"i"].decode(), entry.decode(), int(fields[b"e"]), queue=queue) for entry, fields in rows
        ]

    def lease(self, id: str, entry: str, epoch: int, *, queue: str = "workers", snapshot: bytes = b"") -> Lease:
        return Lease(PromiseId(id), queue, entry, epoch, snapshot, self.keys.partition)

    async def take(self, *, consumer: str = WORKER, queue: str = "workers") -> Lease:
        """The next execution; there must be one."""
        [lease] = await self.read(consumer=consumer, queue=queue)
        return lease

    async def take_of(self, id: str, *, consumer: str = WORKER) -> Lease:
        """That of one execution, whatever else is queued."""
        found = {lease.id: lease for lease in await self.read(100, consumer=consumer)}
        self._taken |= found
        return self._taken.pop(PromiseId(id))

    async def start(self, id: str, *, consumer: str = WORKER, **options: Any) -> Lease:
        """Create an execution and take it; nothing else may be waiting in its queue."""
        await self.create(id, **options)
        lease = await self.take(consumer=consumer)
        assert lease.id == id
        return lease

    async def commit(
        self,
        lease: Lease,
        outcome: CommitAction = CommitAction.CONTINUE,
        *ops: Op,
        seen: Entry | None = None,
        payload: bytes = b"",
        due: str = "",
        asked: str = "",
        consumer: str = WORKER,
    ) -> Committed:
        return await self.store.call(
            commit.commit(
                self.keys,
                consumer,
                lease,
                outcome,
                seen=seen.stamp if seen else 0,
                seen_number=seen.number if seen else "",
                asked=asked,
                ops=ops,
                payload=payload,
                due=due,
            )
        )

    async def suspended(self, id: str, *ops: Op, **options: Any) -> None:
        """Make an execution that waits for what ``ops`` started."""
        await self.commit(await self.start(id, **options), CommitAction.SUSPEND, *ops)

    async def start_all(self, ids: Sequence[str], **options: Any) -> list[Lease]:
        """Many at once, their leases in this order; nothing else may be waiting in their queue."""
        await asyncio.gather(*(self.create(id, **options) for id in ids))
        leases = {lease.id: lease for lease in await self.read(len(ids))}
        return [leases[PromiseId(id)] for id in ids]

    async def commit_all(self, leases: Sequence[Lease], outcome: CommitAction, *ops: Op) -> None:
        """The same to each."""
        await asyncio.gather(*(self.commit(lease, outcome, *ops) for lease in leases))

    async def fire(self, limit: int = 256) -> Fired:
        return await self.store.call(timers.fire(self.keys, limit=limit))

    async def fire_all(self) -> None:
        """Until nothing is due and no family is left to close."""
        for _ in range(1000):
            fired = await self.fire()
            if fired.due == 0 and fired.closing == 0:
                return
        raise AssertionError("the firer does not come to an end")

    async def beat(
        self,
        *held: Lease,
        consumer: str = WORKER,
        group: str = "workers",
        beat_ms: int | None = 1000,
        functions: str = "",
        client_id: int = 1,
    ) -> Beat:
        return await self.store.call(
            membership.heartbeat(
                self.keys,
                consumer,
                group,
                client_id=client_id,
                info="here",
                knows="2",
                ttl_ms=60_000,
                held=held,
                beat_ms=beat_ms,
                functions=functions,
            )
        )

    async def reclaim(
        self,
        *entries: str,
        consumer: str = WORKER,
        queue: str = "workers",
        beat: str | None = None,
        release: Literal["", "some", "all"] = "",
        max_attempts: int = 5,
        limit: int = 256,
    ) -> Reclaimed:
        """With the beat the worker shows now, unless one is given."""
        if beat is None:
            score = await self.redis.zscore(self.keys.workers, consumer)
            beat = "" if score is None else f"{score:.0f}"
        return await self.store.call(
            membership.reclaim(
                self.keys,
                consumer,
                queue,
                beat=beat,
                release=release,
                max_attempts=max_attempts,
                limit=limit,
                entries=entries,
            )
        )

    # -- what is there now

    async def load(self, id: str) -> Loaded:
        loaded = await self.store.load(PromiseId(id))
        assert loaded is not None, f"there is no {id}"
        return loaded

    async def calls(self, command: str = "evalsha") -> int:
        """How often the server was asked so."""
        found = await self.redis.info("commandstats")
        return found.get(f"cmdstat_{command}", {}).get("calls", 0)

    async def record(self, id: str) -> PromiseRecord:
        return (await self.load(id)).record

    async def entry(self, id: str, number: str) -> Entry:
        return (await self.load(id)).entries[Number(number)]

    async def ttl_ms(self, id: str) -> int:
        return await self.redis.pttl(self.keys.promise(id))

    async def another_life(self) -> None:
        """Until the server's clock shows another millisecond: what is made now has another incarnation."""
        before_ms = (await self.fire()).server_us // 1000
        while (await self.fire()).server_us // 1000 == before_ms:
            pass

    async def assert_kept_together(self, *ids: str, retention_ms: int = LIMIT["retention_ms"]) -> None:
        """Every one of a family expires, after its retention and all at about the same time."""
        for id in ids:
            assert retention_ms - 10_000 < await self.ttl_ms(id) <= retention_ms, id

    async def mail(self, id: str) -> dict[str, bytes]:
        """The fields of a mailbox."""
        found = await self.redis.hgetall(f"{self.keys.tag}mail:{id}")
        return {name.decode(): value for name, value in found.items()}

    async def unread(self, id: str) -> list[tuple[str, bytes]]:
        """The unread messages of an execution: channel by channel, in order."""
        found = [
            (name.split(" ", 1)[1], int(name[1:].split(" ")[0]), value.split(b"\n", 1)[1])
            for name, value in (await self.mail(id)).items()
            if name[0] == "m"
        ]
        return [(channel, value) for channel, _, value in sorted(found)]

    async def waiting(self, id: str) -> list[str]:
        """The numbers of the receives that wait, in order."""
        lines = await self.redis.hget(self.keys.promise(id), F["receives"]) or b""
        return [line.split("\t")[0] for line in lines.decode().splitlines()]

    async def timers(self) -> dict[str, int]:
        found = await self.redis.zrange(self.keys.timers, 0, -1, withscores=True)
        return {member.decode(errors="replace"): int(score) for member, score in found}

    async def inbox(self, who: str) -> list[dict[bytes, bytes]]:
        """What an inbox was told, without its opening."""
        told = await self.redis.xrange(self.keys.inbox(who))
        return [fields for _, fields in told if b"o" not in fields]

    async def halted(self) -> list[str]:
        return [name.decode(errors="replace") for name in await self.redis.zrange(self.keys.halted, 0, -1)]

    async def queued(self, queue: str = "workers") -> list[str]:
        return [fields[b"i"].decode() for _, fields in await self.redis.xrange(self.keys.queue(queue))]

    async def pending(self, consumer: str, *, but: Lease) -> list[str]:
        """The entries a worker holds, save one."""
        rows = await self.redis.xpending_range(self.keys.queue(but.queue), but.queue, "-", "+", 100, consumer)
        return [entry for row in rows if (entry := row["message_id"].decode()) != but.entry]

    async def place(self, id: str) -> Place | None:
        """The place of an execution, after checking that it is there and nowhere else (law 2)."""
        record = await self.record(id)
        stream = await self.redis.xrange(self.keys.queue(record.queue))
        entries = [(entry.decode(), int(fields[b"e"])) for entry, fields in stream if fields[b"i"].decode() == id]
        delays = {f"{id}~start", f"{id}~retry"} & (await self.timers()).keys()
        assert entries == ([(record.entry, record.epoch)] if record.place is Place.QUEUED else [])
        assert len(delays) == (record.place is Place.DELAYED)
        assert (id in await self.halted()) == (record.place is Place.HALTED)
        assert (record.place is None) == (record.state is not State.PENDING)
        return record.place

    async def snapshot(self) -> dict[str, Any]:
        """Everything the namespace holds, to be compared."""
        found: dict[str, Any] = {}
        async for key in self.redis.scan_iter(match=f"{{{self.namespace}:*", count=1000):
            match await self.redis.type(key):
                case b"hash":
                    found[key] = await self.redis.hgetall(key)
                case b"zset":
                    found[key] = await self.redis.zrange(key, 0, -1, withscores=True)
                case b"stream":
                    found[key] = await self.redis.xrange(key)
                case _:
                    found[key] = await self.redis.get(key)
        return found
