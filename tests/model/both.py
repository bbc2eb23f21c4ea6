"""Model and scripts side by side: every call goes to both; after it, their answers and the data in Redis are compared.

The scripts use a clock that stands still until the test moves it, so that every stamp is known to the millisecond.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, cast

import msgspec

from durasleep import errors
from durasleep.model import Due, Entry, Kind, Number, PromiseId, State, Transaction
from durasleep.protocol import (
    channels,
    command,
    commit,
    foreign,
    grafting,
    journal,
    limits,
    membership,
    promises,
    schedules,
    script,
    timers,
)
from durasleep.protocol.command import KIND_OF, PLACE_OF, STATE_OF, BatchItem, Call, Command, Plan
from durasleep.protocol.entry import parse_entry
from durasleep.protocol.keys import KIND, STATE, F, Keyspace, S, W
from durasleep.protocol.schedules import Advanced, Change
from durasleep.settings import DEFAULTS
from durasleep.traits import Traits
from durasleep.transport import batching
from durasleep.transport.connector import Connector
from durasleep.transport.sync_store import SyncStore
from tests.model import moves, state
from tests.model.both_channels import plain_entry, read_mailbox, shown_mail
from tests.model.both_limits import as_compared, read_limits, written
from tests.model.channels import Send
from tests.model.gate import Numbers
from tests.model.moves import Commit, Create, Refused, Scripts
from tests.model.state import Declared, Promise, Redis, Snapshot, StreamEntry, Waiter

T = TypeVar("T")

NOON_MS = 1_800_000_000_000
SETTINGS = dataclasses.replace(DEFAULTS, movable_clock=True)
_load = script.load  # while a test runs, `load_standing` replaces it
FAILOVER_S = 0.002  # real time passes: no new stream entry gets the id of a lost one
STANDING = (
    *("id", "kind", "state", "place", "queue", "function", "incarnation", "created_ms", "begun_ms", "base", "args"),
    *("epoch", "entry"),
)
"""Fields of an entry that do not change as long as its execution is queued."""
EXPIRES_SOON_MS = 1_000  # stored promises expire after days


@cache
def load_standing(name: str, movable_clock: bool = False, *limits: int) -> script.Script:
    """A script whose clock stands still at noon, moved by the value of the key ``clock``."""
    plain = _load(name, movable_clock, *limits)
    source = plain.source.replace(b"redis.call('TIME')", b"{ '%d', '0' }" % (NOON_MS // 1000))
    return dataclasses.replace(plain, source=source, sha=hashlib.sha1(source).hexdigest().encode())


def in_one_call(calls: Sequence[Call]) -> Plan[list[Any]]:
    """Calls that are sent together; an answer may be an error."""
    return (yield calls)


LINES = ("* * * * *", "*/5 * * * *")


class Both:
    """One namespace of a server, and the model of it."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.store = SyncStore(Connector.of(client), namespace=namespace, settings=SETTINGS)
        self.store.open()
        self.keys = self.store.keyspaces[0]
        self._partitions = [self._partition(number) for number in range(2)]
        self.model = Redis(now=NOON_MS)
        self.real_entries: dict[int, tuple[str, str]] = {}
        self.replica: tuple[Redis, list[tuple[str, bytes, int]]] | None = None
        self.repeat: Callable[[], None] = lambda: None
        self.checked: set[int] = set()
        """Entries that nobody has read, and whose data is known to be true."""
        self.told: dict[int, Snapshot] = {}
        """The data of the entries that were read."""
        self.effects_prefix = f"effects-{namespace}:"

    def _partition(self, number: int) -> Keyspace:
        """One of two partitions, with the keys of the only one: what is in them is compared together."""
        keys = Keyspace(self.keys.namespace, number, 2, movable_clock=True)
        object.__setattr__(keys, "tag", self.keys.tag)
        return keys

    def effect(self, member: str, incarnation: int) -> Transaction:
        """A transaction that counts how often it is carried out."""
        key = f"{self.effects_prefix}{member}@{incarnation}".encode()
        return Transaction(Number(member.rpartition("~")[2]), ((b"INCR", key),))

    def effect_keys(self) -> list[str]:
        return [name.decode() for name in self.client.scan_iter(match=f"{self.effects_prefix}*", count=1000)]

    def clear(self) -> None:
        """Remove everything."""
        self._delete_all()
        self.store.close()

    def _all_keys(self) -> list[str]:
        pattern = f"{{{self.keys.namespace}:*"
        return [*[name.decode() for name in self.client.scan_iter(match=pattern, count=1000)], *self.effect_keys()]

    def _delete_all(self) -> None:
        names = self._all_keys()
        if names:
            self.client.delete(*names)

    # -- calls

    def create(self, items: Sequence[Create]) -> None:
        calls = [self._create(item) for item in items]
        self._batch(lambda: Scripts(self.model).create(items), calls, _created)

    def _create(self, item: Create) -> BatchItem[promises.Created]:
        if item.kind is None:  # single ones go another way, in which they may free memory
            attach = promises.attach(self.keys, PromiseId(item.id), inbox=item.inbox)
            return msgspec.structs.replace(attach, route=command.route("create", self.keys, ("",)))
        return promises.create(
            self.keys,
            PromiseId(item.id),
            kind=item.kind,
            function=item.function,
            queue=item.queue,
            start=Due(item.start) if item.start else None,
            deadline=Due(item.deadline) if item.deadline else None,
            idempotency_key=item.idempotency_key,
            inbox=item.inbox,
            retention="" if item.retention_ms is None else str(item.retention_ms),
            waiter=_line(item.waiter) if item.waiter else "",
            traits=Traits(item.priority, item.key, mode=item.mode).words(),
        )

    def commit(self, consumer: str, items: Sequence[Commit]) -> None:
        calls = [
            commit.commit(
                self._partitions[state.partition_of(item.lease.id)],
                consumer,
                self.lease(item.lease),
                item.outcome,
                seen=item.seen,
                seen_number=item.seen_number,
                ops=item.ops,
                payload=item.payload,
                due=f"{item.due} {item.functions}" if item.functions else item.due,
                open=item.is_open,
                asked=item.asked,
            )
            for item in items
        ]
        calls = [msgspec.structs.replace(call, route=calls[0].route) for call in calls]

        def in_model() -> tuple[Redis, list[Any]]:
            model, answers = Scripts(self.model).commit(consumer, items)
            return model, [answer if isinstance(answer, Refused) else _unseen(answer) for answer in answers]

        self._batch(in_model, calls, _committed)

    def lease(self, lease: moves.Lease | StreamEntry, snapshot: bytes = b"") -> commit.Lease:
        _, entry = self.real_entries[lease.entry]
        return commit.Lease(PromiseId(lease.id), lease.queue, entry, lease.epoch, snapshot)

    def settle(self, items: Sequence[tuple[str, State, bytes]]) -> None:
        calls = [promises.settle(self.keys, PromiseId(id), state, value) for id, state, value in items]
        self._batch(lambda: Scripts(self.model).settle(items), calls, lambda told: (told.by_us, told.state))

    def send(self, items: Sequence[Send]) -> None:
        calls = [self._send(item) for item in items]
        self._batch(lambda: Scripts(self.model).send(items), calls, lambda told: told.delivery.value)

    def _send(self, item: Send) -> BatchItem[channels.Sent]:
        start = self._create(Create(item.id, function=item.starts)) if item.starts else None
        call = channels.send(
            self.keys,
            PromiseId(item.id),
            item.channel,
            item.text,
            item.call,
            key=item.key or None,
            start=start,
            reply=PromiseId(item.reply) if item.reply else None,
            due=Due(item.due) if item.reply else None,
            inbox=item.inbox,
        )
        if item.sender is None:
            return call
        args = list(call.args)
        args[1 + call.script.item_names.index("memo")] = f"x{_line(item.sender)}"
        args[1 + call.script.item_names.index("caller")] = ""
        return msgspec.structs.replace(call, args=args)

    def control(self, items: Sequence[tuple[str, str, str]]) -> None:
        calls = [
            promises.control(self.keys, action, PromiseId(id), due=Due(due) if due else None)
            for action, id, due in items
        ]
        self._batch(lambda: Scripts(self.model).control(items), calls, lambda told: (told.word, told.state))

    def note(self, consumer: str, items: Sequence[moves.Note]) -> None:
        calls = [
            commit.note(self.keys, consumer, self.lease(item.lease), item.number, item.first, item.payload)
            for item in items
        ]
        self._batch(lambda: _noted(Scripts(self.model).note(consumer, items)), calls, bool)

    def graft(self, item: moves.Graft) -> None:
        fork = grafting.Fork(PromiseId(item.id), item.key, FORKING)
        match item.action:
            case "begin":
                call = grafting.begin(
                    self.keys,
                    fork,
                    function="f",
                    queue="workers",
                    args=b"",
                    begun_ms=0,
                    base=0,
                    lasts_ms=None,
                    retention="",
                    origins="",
                    labels="",
                    limit=item.limit,
                )
            case "entries":
                raw = [(number.encode(), _raw(entry)) for number, entry in item.entries]
                call = grafting.add_entries(self.keys, fork, raw, order=item.order)
            case _:
                call = grafting.end(self.keys, fork)
        self._batch(lambda: Scripts(self.model).graft([item]), [call], lambda standing: standing.value)

    def declare(self, declared: dict[str, Declared]) -> None:
        """What workers declare of functions."""
        for function, what in declared.items():
            text = limits.declared_text(what.limit, what.priority, None, needs_key=what.needs_key)
            self.store.call(limits.declare_function(self.keys, function, text))
        self.model = self.model._replace(declared=tuple(sorted(declared.items())))

    def change_limits(self, items: Sequence[tuple[str, str, Numbers | None]]) -> None:
        calls = [self._change_limit(*item) for item in items]
        self._batch(
            lambda: Scripts(self.model).change_limits(items), calls, lambda is_new: "kept" if is_new else "same"
        )

    def _change_limit(self, action: str, name: str, numbers: Numbers | None) -> BatchItem[bool]:
        if action == "limit" and numbers:
            return limits.declare_limit(self.keys, name, written(numbers))
        if action == "set" and numbers:
            return limits.set_limit(self.keys, name, written(numbers))
        return limits.change_limit(self.keys, name, cast("limits.Change", action))

    def schedule(
        self, action: str, name: str, due_ms: int, seen_due: int, id: str, *, is_changed: bool = False
    ) -> None:
        """``put`` uses the stored line, or another one if it is to be changed."""
        line = (self.client.hget(self.keys.schedule(name), S["cron"]) or LINES[0].encode()).decode()
        if is_changed:
            line = LINES[1 - LINES.index(line)]
        kept = schedules.Schedule(name, line, "UTC", "f", "workers", b"", due_ms)
        match action:
            case "put":
                call = schedules.put_schedule(self.keys, kept)
            case "aside":
                call = schedules.quarantine_schedule(self.keys, name, seen_due, "why", is_offered=not is_changed)
            case "advance":
                seen = dataclasses.replace(kept, due_ms=seen_due)
                change = Change(due_ms, f"={due_ms}", [PromiseId(id)])
                call = schedules.advance_schedule(self.keys, seen, change)
            case _:
                call = schedules.remove_schedule(self.keys, name)
        self._one(
            lambda: Scripts(self.model).schedule(action, name, f"={due_ms}", seen_due, id, is_changed),
            lambda: _schedule_word(self.store.call(cast("BatchItem[Any]", call))),
            lambda told: told,
        )

    def fire(self, limit: int) -> None:
        self._one(
            lambda: _sorted_tells(Scripts(self.model).fire(limit)),
            lambda: self.store.call(timers.fire(self.keys, limit=limit)),
            lambda told: moves.Fired(
                told.due,
                told.next_due_ms,
                told.stale,
                tuple(told.schedules),
                tuple([line.partition(": ")[0] for line in told.quarantined]),
                told.closing,
                told.newer,
                tuple([_asked(ask) for ask in told.asks]),
                tuple(sorted([heard for tell in told.tells for heard in _told(tell)])),
            ),
        )

    def hear(self, items: Sequence[moves.Hear]) -> None:
        """A question that is answered as going on comes again after as long as it has taken so far."""
        items = [item._replace(again_ms=self._again_ms(item.entry)) for item in items]
        calls = [
            foreign.hear(
                self.keys,
                item.entry,
                str(item.incarnation),
                PromiseId(item.child_id),
                item.state,
                item.value,
                is_refused=item.is_refused,
            )
            for item in items
        ]
        self._batch(lambda: Scripts(self.model).hear(items), calls, lambda is_heard: "heard" if is_heard else "stale")

    def _again_ms(self, member: str) -> int:
        owner, _, number = member.rpartition("~")
        raw = self.client.hget(self.keys.promise(owner), number)
        promise = self.model.promise(owner)
        if raw is None or promise is None:
            return moves.HEARD_MS
        age_ms = self.model.now - promise.incarnation - int(raw.split(b"\t")[1] or 0)
        return min(max(age_ms, moves.HEARD_MS), 60 * moves.HEARD_MS)

    def told_of(self, items: Sequence[moves.Told]) -> None:
        calls = [foreign.told(self.keys, PromiseId(item.id), _line(item.waiter)) for item in items]
        self._batch(lambda: (Scripts(self.model).told(items), [True] * len(items)), calls, lambda told: told)

    def heartbeat(self, consumer: str, group: str, held: Sequence[moves.Lease], functions: str = "") -> None:
        def beat() -> membership.Beat:
            leases = [self.lease(lease) for lease in held]
            call = membership.heartbeat(
                self.keys,
                consumer,
                group,
                client_id=1,
                info="",
                knows="2",
                ttl_ms=600_000,
                held=leases,
                beat_ms=moves.BEAT_MS,
                functions=functions,
            )
            return self.store.call(call)

        def told(beat: membership.Beat) -> moves.Beat:
            names = {real: name for name, real in self.real_entries.items()}
            lost = tuple([lease.entry for lease in held if (0, *self.real_entries[lease.entry]) in beat.lost])
            unnamed = frozenset({(queue, names[queue, entry]) for _, queue, entry in beat.unnamed})
            orders = tuple([(lease.id, beat.orders[lease.id]) for lease in held])
            return moves.Beat(beat.rank, lost, orders, unnamed)

        self._one(lambda: Scripts(self.model).heartbeat(consumer, group, held, functions), beat, told)

    def reclaim(
        self,
        consumer: str,
        queue: str,
        *,
        beat: int | None,
        release: Literal["", "some", "all"],
        max_attempts: int,
        limit: int,
        entries: Sequence[int],
    ) -> None:
        def reclaim() -> membership.Reclaimed:
            call = membership.reclaim(
                self.keys,
                consumer,
                queue,
                beat="" if beat is None else str(beat),
                release=release,
                max_attempts=max_attempts,
                limit=limit,
                entries=[self.real_entries[entry][1] for entry in entries],
            )
            return self.store.call(call)

        def told(answer: membership.Reclaimed) -> moves.Reclaimed:
            word = "alive" if answer.alive else "more" if answer.more else "done"
            return moves.Reclaimed(word, answer.given, tuple(answer.poison))

        self._one(
            lambda: Scripts(self.model).reclaim(
                consumer,
                queue,
                beat=beat,
                release=release,
                max_attempts=max_attempts,
                limit=limit,
                entries=entries,
            ),
            reclaim,
            told,
        )

    def read(self, consumer: str, queue: str) -> moves.Lease | None:
        """The answer of XREADGROUP to a worker: the oldest entry that was not delivered."""
        stream, group = self.keys.queue(queue), moves.group_of(queue)
        if not self.client.exists(stream) or not self.client.xinfo_groups(stream):
            self.client.xgroup_create(stream, group, "0", mkstream=True)
        found = self.client.xreadgroup(group, consumer, {stream: ">"}, count=1)
        free = [entry for entry in self.model.stream if entry.queue == queue and entry.holder is None]
        if not free:
            assert not found, f"{consumer} was given {found}, the model has nothing in {queue}"
            return None
        if free[0].snapshot:
            self.told[free[0].entry] = free[0].snapshot
        self.model, lease = Scripts(self.model).read(consumer, free[0].entry)
        self.compare()
        return lease

    # -- events from elsewhere

    def move_clock(self, by_ms: int) -> None:
        self.model = self.model._replace(now=max(1, self.model.now + by_ms))
        self.client.set(self.keys.clock, self.model.now - NOON_MS)

    def expire(self, id: str) -> None:
        """The retention of a promise has passed."""
        self.model = Scripts(self.model).expire(id)
        self.client.delete(self.keys.promise(id))

    def fade(self, consumer: str) -> None:
        """A worker has sent no heartbeat for long."""
        self.model = Scripts(self.model).fade(consumer)
        self.client.delete(self.keys.worker(consumer))

    def fall_behind(self) -> None:
        """A replica has the current data, and gets no more."""
        dumps = [(name, self.client.dump(name), self.client.pttl(name)) for name in self._all_keys()]
        self.replica = self.model, dumps

    def fail_over(self) -> None:
        """The replica takes over: later writes are gone, but the time is not."""
        assert self.replica
        before, dumps = self.replica
        self.replica = None
        self._delete_all()
        for name, dump, ttl in dumps:
            self.client.restore(name, max(ttl, 0), dump)
        time.sleep(FAILOVER_S)
        self.model = before._replace(now=self.model.now, last_entry=self.model.last_entry)
        self.move_clock(0)
        self.compare()

    def add_timer(self, member: str, due: int) -> None:
        """A member that somebody else has written, or that is left from before."""
        timers = dict(self.model.timers) | {member: due}
        self.model = self.model._replace(timers=tuple(sorted(timers.items())))
        self.client.zadd(self.keys.timers, {member: due})

    def add_entry(self, queue: str, id: str, epoch: int) -> None:
        """A stream entry without its execution; if the id is empty, it has no fields of ours."""
        name = self.model.last_entry + 1
        entry = StreamEntry(name, queue, id, epoch)
        self.model = self.model._replace(last_entry=name, stream=(*self.model.stream, entry))
        self.client.xadd(self.keys.queue(queue), {"i": id, "e": epoch} if id else {"what": "ever"})

    # -- comparing

    def _batch(
        self,
        in_model: Callable[[], tuple[Redis, Iterable[Any]]],
        calls: Sequence[Call],
        told: Callable[[Any], Any],
    ) -> None:
        """Several items: in one EVALSHA, in the order of the model's."""

        def once() -> None:
            assert len(batching.join(calls, SETTINGS)) == 1, "these calls do not travel together"
            answers = self.store.run(in_one_call(calls))
            self.model, expected = in_model()
            self._compare_answers(answers, expected, told)

        self._run(once)

    def _one(self, in_model: Callable[[], tuple[Redis, Any]], call: Callable[[], T], told: Callable[[T], Any]) -> None:
        def once() -> None:
            answer = call()
            self.model, expected = in_model()
            self.compare()
            assert told(answer) == expected

        self._run(once)

    def _run(self, once: Callable[[], None]) -> None:
        self.repeat = once  # as if its answer had been lost
        once()
        self.compare()

    def _compare_answers(self, answers: Iterable[Any], expected: Iterable[Any], told: Callable[[Any], Any]) -> None:
        for answer, wanted in zip(answers, expected, strict=True):
            if isinstance(wanted, Refused):
                assert type(answer) is type(errors.from_code(wanted.code, "")), f"{answer!r}, expected {wanted!r}"
            else:
                assert not isinstance(answer, Exception), f"{answer!r}, expected {wanted!r}"
                assert told(answer) == wanted

    def compare(self) -> None:
        """The data in Redis is what the model says."""
        found = read_redis(self)
        self._name_entries(found)
        self._compare_snapshots(found)
        shown = _shown(self.model, self.real_entries)
        for part, expected in shown.items():
            assert found[part] == expected, f"{part}: Redis has {found[part]}, the model {expected}"

    def _name_entries(self, found: dict[str, Any]) -> None:
        """Maps stream entries of the two: both add them in the same order."""
        expected: dict[str, list[StreamEntry]] = {}
        for entry in self.model.stream:
            expected.setdefault(entry.queue, []).append(entry)
        for queue in expected.keys() | found["stream"].keys():
            real = found["stream"].get(queue, [])
            wanted = expected.get(queue, [])
            assert len(real) == len(wanted), f"queue {queue}: Redis has {real}, the model {wanted}"
            for row, entry in zip(real, wanted, strict=True):
                assert self.real_entries.setdefault(entry.entry, (queue, row[0])) == (queue, row[0])

    def _compare_snapshots(self, found: dict[str, Any]) -> None:
        """The data of an entry is that of its execution at dispatch, and is still true if nothing has changed."""
        unread = {entry.entry for entry in self.model.stream if entry.holder is None}
        self.checked &= unread
        for entry in self.model.stream:
            if entry.entry in unread - self.checked:
                self.checked.add(entry.entry)
                queue, name = self.real_entries[entry.entry]
                self._compare_snapshot(entry, found["snapshots"].get((queue, name), b""))

    def _compare_snapshot(self, entry: StreamEntry, snapshot: bytes) -> None:
        assert bool(snapshot) == (entry.snapshot is not None), f"{entry} tells {snapshot!r}"
        told = journal.read_snapshot(self.lease(entry, snapshot))
        if entry.snapshot is None:
            return
        assert told, f"{snapshot!r} cannot be read"
        record, entries = told.record, [(str(number), _entry(one)) for number, one in told.entries.items()]
        was = Snapshot(record.function, record.incarnation, record.base, record.order, journal=tuple(sorted(entries)))
        plain = tuple([(number, plain_entry(one)) for number, one in entry.snapshot.journal])
        assert was == entry.snapshot._replace(unseen=(), journal=plain)
        assert record.unseen == frozenset(entry.snapshot.unseen)
        now = self.store.run(journal.load(self.keys, record.id))
        assert now is not None
        for name in STANDING:
            assert getattr(record, name) == getattr(now.record, name), f"the entry of {record.id} tells another {name}"


def _raw(entry: state.Entry) -> bytes:
    """A settled entry as it is stored."""
    head = (KIND[entry.kind] + STATE[entry.state], str(entry.stamp or ""), "", entry.name, "")
    return "\t".join(head).encode() + b"\n" + entry.payload


def _noted(answer: tuple[Redis, list[str | Refused]]) -> tuple[Redis, list[Any]]:
    """Whether it was kept is for nobody: only that it was not refused."""
    model, words = answer
    return model, [word if isinstance(word, Refused) else True for word in words]


def _line(waiter: Waiter) -> str:
    return f"{state.partition_of(waiter.who)} {waiter.incarnation} {waiter.who}"


def _sorted_tells(answer: tuple[Redis, moves.Fired]) -> tuple[Redis, moves.Fired]:
    model, fired = answer
    return model, fired._replace(tells=tuple(sorted(fired.tells)))


def _asked(ask: foreign.Question) -> moves.Ask:
    if isinstance(ask, foreign.Message):
        message = (ask.entry_id, int(ask.incarnation), ask.child_id, ask.channel)
        return moves.Ask(*message, is_detached=False, kind=Kind.SEND, body=ask.value)
    if isinstance(ask, foreign.Settlement):
        settlement = (ask.entry_id, int(ask.incarnation), ask.child_id, "")
        return moves.Ask(*settlement, is_detached=False, kind=Kind.SETTLE, body=ask.value)
    return moves.Ask(ask.entry_id, int(ask.incarnation), ask.child_id, ask.function, ask.is_detached)


def _told(tell: foreign.Tell) -> Iterable[moves.Hear]:
    for waiter in tell.waiters:
        _, incarnation, who = waiter.split(" ", 2)
        yield moves.Hear(who, int(incarnation), tell.id, tell.state, tell.value or b"", is_told=True)


def _created(told: promises.Created) -> moves.Created:
    return moves.Created(told.disposition, told.state, told.place, told.incarnation, told.function, told.value)


def _committed(told: commit.Committed) -> tuple[bool, list[Any]]:
    return told.redrive, [(entry.number, _entry(entry)) for entry in told.entries]


def _unseen(answer: moves.Committed) -> tuple[bool, list[Any]]:
    return answer.word == "redrive", list(answer.entries)


def _entry(entry: Entry) -> state.Entry:
    due = entry.due_ms or None
    return state.Entry(entry.kind, entry.state, entry.stamp, due, entry.name, entry.child_id, entry.payload)


# -- the model's data and the server's data, in the same terms


def _shown(model: Redis, real_entries: dict[int, tuple[str, str]]) -> dict[str, Any]:
    streams: dict[str, list[Any]] = {}
    for entry in model.stream:
        row = (real_entries[entry.entry][1], entry.id, entry.epoch if entry.id else 0, entry.holder)
        streams.setdefault(entry.queue, []).append(row)
    promises = {
        id: promise._replace(
            entry=None if promise.entry is None else real_entries[promise.entry][1],  # type: ignore[arg-type]
            journal=tuple([(number, plain_entry(entry)) for number, entry in promise.journal]),
        )
        for id, promise in model.promises
    }
    return {
        "promises": promises,
        "timers": dict(model.timers),
        "stream": streams,
        "beats": dict(model.beats),
        "presence": dict(model.presence),
        "halted": {_quarantined(name, real_entries) for name in model.halted},
        "closing": list(model.closing),
        "schedules": dict(model.schedules),
        "limits": {name: as_compared(limit, model.now) for name, limit in model.limits},
        "inboxes": {who: _hints(told, real_entries) for who, told in model.inboxes},
        "wake": model.wake,
        "effects": dict(model.effects),
        "mail": shown_mail(model),
    }


def _schedule_word(answer: int | str | Advanced) -> str:
    return answer.word if isinstance(answer, Advanced) else str(answer)


def _hints(told: tuple[tuple[str, ...], ...], real_entries: dict[int, tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The messages in an inbox, with the real ids of the offered entries."""
    return tuple(
        [
            tuple([re.sub(r"\t#(\d+)\t", lambda name: f"\t{real_entries[int(name[1])][1]}\t", part) for part in hints])
            for hints in told
        ]
    )


def _quarantined(name: str, real_entries: dict[int, tuple[str, str]]) -> str:
    """A stream entry that was quarantined, by its real name."""
    match = re.fullmatch(r"queue:([^:]+):(\d+)", name)
    return f"queue:{match[1]}:{real_entries[int(match[2])][1]}" if match else name


def read_redis(both: Both) -> dict[str, Any]:
    """Everything in the namespace."""
    client, keys = both.client, both.keys
    while True:
        names = sorted(client.scan_iter(match=f"{{{keys.namespace}:*", count=1000))
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.type(name)
            pipe.pttl(name)
        answers = pipe.execute()
        kinds = dict(zip(names, zip(answers[::2], answers[1::2], strict=True), strict=True))
        if all(ttl == -1 or ttl > EXPIRES_SOON_MS for _, ttl in kinds.values()):
            break  # a promise may expire in this millisecond: read again after it
    found: dict[str, Any] = {
        "promises": {},
        "timers": {},
        "stream": {},
        "beats": {},
        "presence": {},
        "halted": set[str](),
        "closing": [],
        "schedules": {},
        "limits": {},
        "inboxes": {},
        "wake": None,
        "effects": {},
        "mail": {},
        "snapshots": {},
    }
    for name in both.effect_keys():
        member, _, incarnation = name.removeprefix(both.effects_prefix).rpartition("@")
        found["effects"][member, int(incarnation)] = int(client.get(name))
    for name, (_, ttl) in kinds.items():
        kind, _, subject = name.decode().removeprefix(keys.tag).partition(":")
        _readers[kind](both, found, name, subject, ttl)
    found["limits"] = read_limits(both.client, keys, both.model.now)
    return found


def _read_promise(both: Both, found: dict[str, Any], name: bytes, id: str, ttl: int) -> None:
    fields = both.client.hgetall(name)

    def text(field: str) -> str:
        return fields.get(F[field].encode(), b"").decode()

    def number(field: str) -> int:
        return int(text(field) or 0)

    journal = [(field.decode(), raw) for field, raw in fields.items() if field[:1].isdigit()]
    entries = [(number, _entry(parse_entry(number.encode(), raw))) for number, raw in journal]
    kind = KIND_OF[fields.get(F["kind"].encode(), b"e")]
    found["promises"][id] = Promise(
        incarnation=number("incarnation"),
        kind=kind,
        function=text("func"),
        queue=text("queue") or ("workers" if text("func") else ""),
        state=STATE_OF[fields.get(F["state"].encode(), b"p")],
        place=PLACE_OF.get(fields.get(F["place"].encode(), b"")),
        epoch=number("epoch"),
        entry=text("entry") or None,  # type: ignore[arg-type]
        due=number("due") or None,
        deadline=number("deadline") or None,
        order=number("order"),
        unseen=tuple(text("unseen").split()),
        crash_count=number("crash_count"),
        lone_crash_count=number("lone_crash_count"),
        lacking=tuple(text("lacking").split()),
        base=number("base"),
        has_family=bool(text("family")),
        waiters=tuple([_waiter(line) for line in _waiting(both, id, text("waiters"))]),
        idempotency_key=text("idempotency_key"),
        value=fields.get(F["value"].encode(), b""),
        retention_ms=number("retention") or None,
        expires=ttl > 0,
        limit=text("limit"),
        created=number("created") or None,
        checkpoints=tuple(sorted((name[len(CHECKPOINT) :], value) for name, value in _checkpoints(fields))),
        is_unquoted=bool(text("unquoted")),
        is_being_forked=text("reason") == FORKING,
        has_mailbox="m" in text("extras"),
        receives=tuple([(line.split("\t")[0], line.split("\t")[1]) for line in text("receives").splitlines()]),
        calls=tuple(text("calls").splitlines()),
        journal=tuple(sorted(entries)),
    )


CHECKPOINT = F["checkpoint"]
FORKING = "it is being forked"


def _checkpoints(fields: dict[bytes, bytes]) -> Iterable[tuple[str, bytes]]:
    for name, value in fields.items():
        if re.fullmatch(f"{CHECKPOINT}[\\d.]+", name.decode()):
            yield name.decode(), value


def _waiting(both: Both, id: str, text: str) -> list[str]:
    if text == "+":
        return sorted([line.decode() for line in both.client.smembers(both.keys.waiters(id))])
    return text.splitlines()


def _waiter(line: str) -> Waiter:
    if line[0] == "i":
        return Waiter(line[1:])
    if line[0] == "x":
        _, incarnation, who = line[1:].split(" ", 2)
        return Waiter(who, int(incarnation), is_foreign=True)
    incarnation, _, who = line[1:].partition(" ")
    return Waiter(who, int(incarnation))


def _read_stream(both: Both, found: dict[str, Any], name: bytes, queue: str, ttl: int) -> None:
    rows = both.client.xrange(name)
    holders: dict[bytes, bytes] = {}
    if both.client.xinfo_groups(name):
        pending = both.client.xpending_range(name, moves.group_of(queue), "-", "+", 1000)
        holders = {row["message_id"]: row["consumer"] for row in pending}
    assert holders.keys() <= {entry for entry, _ in rows}, "an entry is pending, but not in its stream"
    found["stream"][queue] = [
        (
            entry.decode(),
            fields.get(b"i", b"").decode(),
            int(fields.get(b"e", 0)),
            holders[entry].decode() if entry in holders else None,
        )
        for entry, fields in rows
    ]
    for entry, fields in rows:
        found["snapshots"][queue, entry.decode()] = fields.get(b"x", b"")
    if not rows:
        del found["stream"][queue]


def _read_set(part: str) -> Callable[..., None]:
    def read(both: Both, found: dict[str, Any], name: bytes, subject: str, ttl: int) -> None:
        rows = both.client.zrange(name, 0, -1, withscores=True)
        members = {member.decode(errors="replace"): int(score) for member, score in rows}
        match part:
            case "closing":
                found[part] = list(members)
            case "halted":
                found[part] = {member.partition(": ")[0] for member in members}
            case _:
                found[part] = members

    return read


def _read_schedule(both: Both, found: dict[str, Any], name: bytes, subject: str, ttl: int) -> None:
    found["schedules"][subject] = int(both.client.hget(name, S["due"]))


def _read_inbox(both: Both, found: dict[str, Any], name: bytes, who: str, ttl: int) -> None:
    assert ttl > 0, f"the inbox of {who} does not expire"
    rows = both.store.call(Command([b"XRANGE", name, b"-", b"+"], list[Any]))  # unchanged: a field may be there twice
    told = [tuple([part.decode() for part in fields]) for _, fields in rows]
    found["inboxes"][who] = tuple([fields for fields in told if fields[0] != "o"])


def _read_wake(both: Both, found: dict[str, Any], name: bytes, subject: str, ttl: int) -> None:
    [(_, fields)] = both.client.xrange(name)
    found["wake"] = int(fields[b"d"]) if b"d" in fields else None


def _read_mail(both: Both, found: dict[str, Any], name: bytes, id: str, ttl: int) -> None:
    is_owned = b"m" in (both.client.hget(both.keys.promise(id), F["extras"]) or b"")
    found["mail"][id] = read_mailbox(both.client.hgetall(name), is_owned=is_owned, expires=ttl > 0)


def _read_worker(both: Both, found: dict[str, Any], name: bytes, consumer: str, ttl: int) -> None:
    assert ttl > 0, f"the key of worker {consumer} does not expire"
    found["presence"][consumer] = both.client.hget(name, W["functions"]).decode()


def _ignore(both: Both, found: dict[str, Any], name: bytes, subject: str, ttl: int) -> None:
    """For people, or for the test itself."""


_readers: dict[str, Callable[..., None]] = {
    "promise": _read_promise,
    "queue": _read_stream,
    "timers": _read_set("timers"),
    "workers": _read_set("beats"),
    "halted": _read_set("halted"),
    "closing": _read_set("closing"),
    "schedule": _read_schedule,
    "schedules": _ignore,
    "inbox": _read_inbox,
    "wake": _read_wake,
    "worker": _read_worker,
    "waiters": _ignore,
    "recent": _ignore,
    "failed": _ignore,
    "stats": _ignore,
    "functions": _ignore,
    "limit": _ignore,
    "mail": _read_mail,
    "clock": _ignore,
}
