"""The scripts do what the model says, call for call: on every server, in batches and one by one.

A machine makes calls as workers, clients, people and time would, also wrong ones: stale leases, calls that are repeated
because their answer was lost, settlements in any order, a clock that is changed, unknown members. After each call, the
data in Redis is compared with the model. ``DURASLEEP_MODEL_EXAMPLES=2000`` runs longer, with other calls each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from durasleep.model import (
    KEPT_FOR_EVER,
    CancelEntry,
    Checkpoint,
    CommitAction,
    Due,
    Kind,
    Mark,
    Number,
    Op,
    Place,
    PromiseId,
    SendMessage,
    SettlePromise,
    StartChild,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    StepResult,
)
from durasleep.protocol import script
from durasleep.traits import Traits
from harness.servers import Server
from tests.model.both import NOON_MS, Both, load_standing
from tests.model.channels import Send
from tests.model.gate import Numbers
from tests.model.moves import KEEP, Commit, Create, Graft, Hear, Lease, Note, Told
from tests.model.state import Declared, Waiter, partition_of

pytestmark = pytest.mark.long

EXAMPLES = int(os.environ.get("DURASLEEP_MODEL_EXAMPLES", "0"))

ROOTS = ("a", "b", "c")
CONSUMERS = ("w1/aaaaaaaa", "w2/bbbbbbbb")
QUEUES = ("workers", "workers/w1", "others", "workers!1")
NUMBERS = ("1", "2", "3", "1.1")
DUES = ("+0", "+5", "+1000", "+3600000", "=1")
SETTLED = (State.RESOLVED, State.REJECTED, State.CANCELED)
SLEEPS = (CommitAction.SUSPEND, CommitAction.SUSPEND, CommitAction.RETRY, CommitAction.CONTINUE_AS_NEW)
FUNCTIONS = ("", "all", "some", "few")
RETENTIONS = (None, None, KEPT_FOR_EVER, 3_600_000)
YEAR_MS = 365 * 86_400_000
ACTIONS = ("retry", "wake", "reschedule", "cancel", "force", "halt", "resume")

CALLED = ("f", "f", "g", "l", "l", "k")
DECLARED = {"l": Declared("L"), "k": Declared("L", priority=1, needs_key=True)}
KEYS = ("", "", "x", "y")
HOUR_MS = 3_600_000
LIMITS = (
    Numbers(per_key=1),
    Numbers(total=1),
    Numbers(per_key=1, total=2),
    Numbers(per_key=1, is_for_life=True),
    Numbers(total=1, is_for_life=True),
    Numbers(step_ms=HOUR_MS),
    Numbers(step_ms=HOUR_MS, burst=2, total=2),
    Numbers(per_key=1, parked_max=1),
    Numbers(total=1, parked_max=1, overflow="replace"),
    Numbers(per_key=1, parked_max=0, overflow="drop"),
    Numbers(step_ms=2 * HOUR_MS, parked_max=1, overflow="drop"),
)
CHANGES = ("limit", "set", "set", "pause", "resume", "resume", "reset")

ids = st.sampled_from(ROOTS)
members = st.one_of(ids, st.builds("{}~{}".format, ids, st.sampled_from(NUMBERS)), st.sampled_from(("a~1~1", "fork")))
dues = st.sampled_from(DUES)
maybe_dues = st.one_of(st.just(""), dues)
consumers = st.sampled_from(CONSUMERS)
payloads = st.sampled_from((b"", b"v1", b"v2"))
creations = st.builds(
    Create,
    id=ids,
    kind=st.sampled_from((Kind.EXECUTION, Kind.EXECUTION, Kind.EXECUTION, Kind.PROMISE, Kind.TIMER, None)),
    function=st.sampled_from(CALLED),
    queue=st.sampled_from(("workers", *QUEUES[:3])),
    start=st.one_of(st.just(""), maybe_dues),
    deadline=st.one_of(st.just(""), maybe_dues),
    idempotency_key=st.sampled_from(("call-1", "call-2")),
    inbox=st.sampled_from(("", "reader")),
    retention_ms=st.sampled_from(RETENTIONS),
    waiter=st.none(),
    priority=st.sampled_from((None, None, None, 1, 3)),
    key=st.sampled_from(KEYS),
    mode=st.sampled_from(("", "", "s", "d60000", "d3", "sd60000")),
)


letters = st.builds(
    Send,
    id=st.one_of(ids, ids, members),
    channel=st.sampled_from("ab"),
    text=payloads,
    call=st.sampled_from(("c1", "c2", "c3", "c4")),
    key=st.sampled_from(("", "", "k1", "k2")),
    sender=st.sampled_from((None, None, Waiter("b~1", NOON_MS, True), Waiter("a~2", NOON_MS, True))),
    starts=st.sampled_from(("", "", "", "f")),
    reply=st.sampled_from(("", "", "", "reply")),
    due=dues,
    inbox=st.just("reader"),
)


def letter(send: Send) -> Send:
    """As a client sends it, or a relay."""
    if send.sender:
        return send._replace(call="", key="", starts="", reply="", inbox="")
    return send if send.reply else send._replace(inbox="")


def creation(create: Create) -> Create:
    """As a client asks for it: attaching has no name, a bare promise no function, and a timer has a due time."""
    if create.kind is None:
        return create._replace(idempotency_key="", priority=None, key="", mode="")
    if create.kind in (Kind.PROMISE, Kind.TIMER):
        deadline = create.deadline or ("+5" if create.kind is Kind.TIMER else "")
        return create._replace(function="", queue="", start="", deadline=deadline, priority=None, key="", mode="")
    if "d" in create.mode and not create.start:
        return create._replace(start="+5")
    return create


class Machine(RuleBasedStateMachine):
    """The calls that may be made at any time; a subclass chooses the server."""

    server: Server
    namespace: str

    def __init__(self) -> None:
        super().__init__()
        self.both = Both(self.server.sync_client(), self.namespace)
        self.leases: list[tuple[str, Lease]] = []

    def teardown(self) -> None:
        self.both.clear()

    # -- clients

    @initialize(
        start=st.booleans(),
        slept=st.sampled_from((None, *SLEEPS)),
        numbers=st.sampled_from(LIMITS),
        function=st.sampled_from(("f", "l")),
    )
    def something_to_run(self, start: bool, slept: CommitAction | None, numbers: Numbers, function: str) -> None:
        self.both.change_limits([("limit", "L", numbers)])
        self.both.declare(DECLARED)
        self.both.create(
            [
                Create("a", function=function, idempotency_key="call-1"),
                Create("b", function=function, idempotency_key="call-1", start="+5" if start else ""),
            ]
        )
        if slept:
            self.sleep(CONSUMERS[0], "+5", slept, wakes=True)

    @rule(items=st.lists(creations, min_size=1, max_size=3))
    def create(self, items: list[Create]) -> None:
        self.both.create([creation(item) for item in items])

    @rule(items=st.lists(st.tuples(members, st.sampled_from(SETTLED), payloads), min_size=1, max_size=3))
    def settle(self, items: list[tuple[str, State, bytes]]) -> None:
        self.both.settle(items)

    @rule(items=st.lists(letters, min_size=1, max_size=3))
    def send(self, items: list[Send]) -> None:
        self.both.send([letter(item) for item in items])

    @rule(consumer=consumers, channels=st.lists(st.sampled_from("aab"), min_size=1, max_size=3), due=maybe_dues)
    def receive(self, consumer: str, channels: list[str], due: str) -> None:
        """The usual case: an execution has seen all settlements and waits for messages."""
        lease = self.both.read(consumer, "workers")
        promise = self.both.model.promise(lease.id) if lease else None
        if not lease or not promise:
            return
        self.leases.append((consumer, lease))
        journal = dict(promise.journal)
        seen = max([(entry.stamp, number) for number, entry in journal.items() if entry.stamp], default=(0, ""))
        free = [number for number in (*NUMBERS, "4", "5", "6") if number not in journal]
        ops = [StartReceive(Number(free.pop(0)), channel, Due(due) if due else None) for channel in channels if free]
        self.both.commit(consumer, [Commit(lease, CommitAction.SUSPEND, tuple(ops), *seen)])

    @rule(items=st.lists(st.tuples(st.sampled_from(ACTIONS), members, dues), min_size=1, max_size=3))
    def control(self, items: list[tuple[str, str, str]]) -> None:
        self.both.control(items)

    @rule(items=st.lists(st.tuples(st.sampled_from(CHANGES), st.sampled_from(LIMITS)), min_size=1, max_size=2))
    def change_limit(self, items: list[tuple[str, Numbers]]) -> None:
        self.both.change_limits(
            [(action, "L", numbers if action in ("limit", "set") else None) for action, numbers in items]
        )

    @rule(
        calls=st.lists(st.tuples(st.sampled_from("cde"), st.sampled_from("lk"), st.sampled_from("xy")), min_size=3),
        numbers=st.sampled_from((None, *LIMITS)),
    )
    def call_many(self, calls: list[tuple[str, str, str]], numbers: Numbers | None) -> None:
        """The usual case: more are called than may run."""
        if numbers:
            self.both.change_limits([("resume", "L", None), ("set", "L", numbers)])
        self.both.create([Create(id, function=function, key=key, idempotency_key=key) for id, function, key in calls])

    # -- workers

    @rule(consumer=consumers, queue=st.sampled_from(("workers", "workers!1")), fires=st.booleans())
    def end_one(self, consumer: str, queue: str, fires: bool) -> None:
        """The usual case: one ends, and lets another one begin."""
        lease = self.both.read(consumer, queue)
        if lease:
            self.leases.append((consumer, lease))
            self.both.commit(consumer, [Commit(lease, CommitAction.RESOLVE)])
        if fires:
            self.both.fire(64)

    @rule(consumer=consumers, queue=st.sampled_from(("workers", *QUEUES)))
    def read(self, consumer: str, queue: str) -> None:
        lease = self.both.read(consumer, queue)
        if lease:
            self.leases.append((consumer, lease))

    @rule(data=st.data(), consumer=consumers)
    def work(self, data: st.DataObject, consumer: str) -> None:
        """The usual case: an execution is read, and committed as a worker would."""
        lease = self.both.read(consumer, data.draw(st.sampled_from(("workers", "workers", "workers!1"))))
        if lease:
            self.leases.append((consumer, lease))
            self.both.commit(consumer, [self.draw_commit(data, lease)])

    @rule(consumer=consumers, due=st.sampled_from(("+0", "+5")), how=st.sampled_from(SLEEPS), wakes=st.booleans())
    def sleep(self, consumer: str, due: str, how: CommitAction, wakes: bool) -> None:
        """The usual case: an execution has seen all settlements and waits for a timer, or begins a new run first."""
        self.both.create([Create("a", idempotency_key="call-1"), Create("b", idempotency_key="call-1")])
        for outcome in dict.fromkeys((how, CommitAction.SUSPEND)):
            lease = self.both.read(consumer, "workers")
            promise = self.both.model.promise(lease.id) if lease else None
            if not lease or not promise:
                break
            self.leases.append((consumer, lease))
            journal = dict(promise.journal)
            seen = max([(entry.stamp, number) for number, entry in journal.items() if entry.stamp], default=(0, ""))
            number = next((number for number in NUMBERS if number not in journal), "9")
            ops = (StartTimer(Number(number), "nap", Due(due)),) if outcome is CommitAction.SUSPEND else ()
            self.both.commit(consumer, [Commit(lease, outcome, ops, *seen, due="3" if ops == () else due)])
        if wakes:
            self.time_passes(4)

    @rule(limit=st.integers(1, 4))
    def time_passes(self, limit: int) -> None:
        """Moves to the next due time, and fires the timer."""
        due = min((due for _, due in self.both.model.timers), default=0)
        if due - self.both.model.now < YEAR_MS:
            self.both.move_clock(max(0, due - self.both.model.now))
            self.both.fire(limit)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """For one or more leases, mostly the newest, which may still be held."""
        consumer, _ = lease = data.draw(st.sampled_from(self.leases[-3:]))
        leases = [lease[1]]
        if data.draw(st.booleans()):
            others = [other for holder, other in self.leases if holder == consumer and other != lease[1]]
            leases += data.draw(st.lists(st.sampled_from(others), max_size=2)) if others else []
        if data.draw(st.integers(0, 9)) == 0:
            consumer = data.draw(consumers)  # not always the one that holds it
        self.both.commit(consumer, [self.draw_commit(data, lease) for lease in leases])
        for entry in self.both.model.stream:
            lease = Lease(entry.id, entry.queue, entry.entry, entry.epoch)
            if entry.holder and entry.id and (entry.holder, lease) not in self.leases:
                self.leases.append((entry.holder, lease))  # it was offered

    def draw_commit(self, data: st.DataObject, lease: Lease) -> Commit:
        promise = self.both.model.promise(lease.id)
        told = self.both.told.get(lease.entry)
        journal = promise.journal if promise else ()
        if told and data.draw(st.booleans()):
            journal = told.journal  # it has begun with the data of its entry, and knows no more
        settled = [(entry.stamp, number) for number, entry in journal if entry.stamp]
        seen = data.draw(st.sampled_from([(0, ""), *sorted(settled, reverse=True)]))
        asked = data.draw(st.sampled_from(["", *[number for number, _ in journal]]))
        match data.draw(st.integers(0, 39)):
            case 0:
                seen = (data.draw(st.sampled_from((1, self.both.model.now))), "1")  # of a history never had here
            case 1:
                asked = data.draw(st.sampled_from(NUMBERS))
            case 2:
                lease = lease._replace(epoch=lease.epoch + 1)
            case _:
                pass
        outcomes = (CommitAction.SUSPEND, CommitAction.CONTINUE, *CommitAction)
        outcome = data.draw(st.sampled_from(outcomes))
        due = data.draw(dues)
        if outcome is CommitAction.CONTINUE_AS_NEW:
            due = "3"
        numbers = data.draw(st.lists(st.sampled_from(NUMBERS), max_size=3))
        return Commit(
            lease,
            outcome,
            tuple([self.draw_op(data, Number(number), lease) for number in numbers]),
            *seen,
            data.draw(payloads),
            due,
            asked=asked,
            functions=data.draw(st.sampled_from((*FUNCTIONS, KEEP))) if outcome is CommitAction.DEFER else "",
        )

    def draw_op(self, data: st.DataObject, number: Number, lease: Lease) -> Op:
        due = Due(data.draw(dues))
        promise = self.both.model.promise(lease.id)
        own_id = data.draw(st.sampled_from(("", "", *[id for id in ROOTS if id != lease.id])))
        is_detached = bool(own_id) and data.draw(st.booleans())
        function = data.draw(st.sampled_from(CALLED))
        traits = Traits(data.draw(st.sampled_from((None, None, 1))), data.draw(st.sampled_from(KEYS))).words()
        queue = data.draw(st.sampled_from((None, *QUEUES[:3])))
        deadline = data.draw(st.sampled_from((None, None, due)))
        retention_ms = data.draw(st.sampled_from(RETENTIONS)) if own_id else None
        start = data.draw(st.sampled_from((None, None, None, due)))
        ops: list[Op] = [
            StartTimer(number, "nap", due),
            StartPromise(number, "", deadline),
            StartChild(
                number,
                function,
                b"",
                queue,
                deadline,
                PromiseId(own_id) or None,
                is_detached,
                retention_ms,
                start,
                traits,
            ),
            StepResult(number, "step", data.draw(st.sampled_from((State.RESOLVED, State.REJECTED))), b"done"),
            CancelEntry(number, Kind.STEP, "step"),
            CancelEntry(number, Kind.RECEIVE, "a"),
            Checkpoint(number, data.draw(st.sampled_from((b"", b"half")))),
            Mark(number, Kind.PATCH, "change"),
            self.both.effect(f"{lease.id}~{number}", promise.incarnation if promise else 0),
            *self.draw_messages(data, number, lease, deadline),
        ]
        return data.draw(st.sampled_from(ops))

    def draw_messages(self, data: st.DataObject, number: Number, lease: Lease, due: Due | None) -> list[Op]:
        target = PromiseId(data.draw(members))
        is_near = partition_of(target) == partition_of(lease.id)
        state = data.draw(st.sampled_from(SETTLED)) if is_near else State.RESOLVED
        channel = data.draw(st.sampled_from("ab"))
        return [
            StartReceive(number, channel, due),
            StartReceive(number, "a", None),
            SendMessage(number, channel, target, data.draw(payloads)),
            SettlePromise(number, target, state, data.draw(payloads)),
        ]

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), consumer=consumers)
    def heartbeat(self, data: st.DataObject, consumer: str) -> None:
        held = data.draw(st.lists(st.sampled_from([lease for _, lease in self.leases]), max_size=3, unique_by=_id_of))
        self.both.heartbeat(consumer, "workers", held, data.draw(st.sampled_from(FUNCTIONS)))

    @rule(consumer=consumers)
    def fade(self, consumer: str) -> None:
        self.both.fade(consumer)

    @rule(
        data=st.data(),
        consumer=consumers,
        release=st.sampled_from(("", "", "some", "all")),
        is_seen=st.booleans(),
        max_attempts=st.integers(1, 3),
    )
    def reclaim(
        self,
        data: st.DataObject,
        consumer: str,
        release: Literal["", "some", "all"],
        is_seen: bool,
        max_attempts: int,
    ) -> None:
        queue = data.draw(st.sampled_from(QUEUES))
        entries = [lease.entry for _, lease in self.leases if lease.queue == queue]
        self.both.reclaim(
            consumer,
            queue,
            beat=dict(self.both.model.beats).get(consumer) if is_seen else 1,
            release=release,
            max_attempts=max_attempts,
            limit=data.draw(st.sampled_from((1, 2, 256))),
            entries=data.draw(st.lists(st.sampled_from(entries), max_size=3, unique=True)) if entries else [],
        )

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), numbers=st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)), payload=payloads)
    def note(self, data: st.DataObject, numbers: tuple[str, str], payload: bytes) -> None:
        consumer, lease = data.draw(st.sampled_from(self.leases[-3:]))
        self.both.note(consumer, [Note(lease, *numbers, payload)])

    @rule(
        id=st.sampled_from(("fork", "fork", "a")),
        key=st.sampled_from(("one", "one", "one", "other")),
        limit=st.sampled_from(("", "L/x")),
        parts=st.integers(0, 3),
    )
    def fork(self, id: str, key: str, limit: str, parts: int) -> None:
        """As far as a client comes, with what has settled of another journal; a repeated fork goes on."""
        other = self.both.model.promise("a")
        settled = [(number, entry) for number, entry in other.journal if entry.stamp] if other else []
        plain = tuple([(number, entry) for number, entry in settled if not entry.child_id])
        for action in ("begin", "entries", "end")[: parts + 1]:
            order = max((entry.stamp for _, entry in plain), default=0)
            entries = plain if action == "entries" else ()
            self.both.graft(Graft(action, id, key, entries, order if entries else 0, limit))

    # -- other partitions

    @rule(data=st.data(), what=st.sampled_from(("begin", "hear", "told")))
    def relay(self, data: st.DataObject, what: str) -> None:
        """Some of what could be under way: of the present, and with other incarnations and states."""
        waiting = [
            (f"{id}~{number}", promise.incarnation, entry)
            for id, promise in self.both.model.promises
            for number, entry in promise.journal
            if entry.child_id
        ]
        if not waiting:
            return
        entry_id, incarnation, entry = data.draw(st.sampled_from(waiting))
        incarnation += data.draw(st.sampled_from((0, 0, 0, 1)))
        waiter = Waiter(entry_id, incarnation, is_foreign=True)
        function = data.draw(st.sampled_from((entry.name, entry.name, "g")))
        if what == "begin" and entry.kind is Kind.SEND:
            self.both.send([Send(entry.child_id, entry.name, data.draw(payloads), sender=waiter)])
        elif what == "begin" and entry.kind is Kind.SETTLE:
            self.both.settle([(entry.child_id, State.RESOLVED, data.draw(payloads))])
        elif what == "begin" and entry.kind in (Kind.CHILD, Kind.DETACHED):
            self.both.create([Create(entry.child_id, function=function, idempotency_key="x", waiter=waiter)])
        elif what in ("begin", "hear"):
            told = data.draw(st.sampled_from((State.PENDING, *SETTLED)))
            is_refused = told is State.REJECTED and data.draw(st.booleans())
            value = b"" if told is State.PENDING else data.draw(payloads)
            self.both.hear([Hear(entry_id, incarnation, entry.child_id, told, value, is_refused=is_refused)])
        else:
            self.both.told_of([Told(entry.child_id, waiter)])

    # -- time

    @rule(limit=st.integers(1, 4))
    def fire(self, limit: int) -> None:
        self.both.fire(limit)

    @rule(by_ms=st.sampled_from((1, 5, 1000, 3_600_000, 3_600_000, -1, -5, -3_600_000)))
    def clock(self, by_ms: int) -> None:
        self.both.move_clock(by_ms)

    @rule(
        action=st.sampled_from(("put", "advance", "advance", "aside", "remove")),
        after_ms=st.sampled_from((0, 60_000)),
        is_seen=st.booleans(),
        id=ids,
        is_changed=st.booleans(),
    )
    def schedule(self, action: str, after_ms: int, is_seen: bool, id: str, is_changed: bool) -> None:
        now = self.both.model.now
        seen_due = dict(self.both.model.schedules).get("daily", 1) if is_seen else 1
        self.both.schedule(action, "daily", now + after_ms, seen_due, id, is_changed=is_changed)

    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Together, or the root before its children."""
        kept = [id for id, promise in self.both.model.promises if promise.expires]
        for id in data.draw(st.lists(st.sampled_from(kept), unique=True)) if kept else []:
            self.both.expire(id)

    # -- faults

    @rule()
    def repeat(self) -> None:
        """The last call once more: its answer was lost."""
        self.both.repeat()

    @rule()
    def the_replica_falls_behind(self) -> None:
        self.both.fall_behind()

    @precondition(lambda self: self.both.replica)
    @rule()
    def failover(self) -> None:
        self.both.fail_over()

    @rule(
        member=st.one_of(
            st.sampled_from(
                ("nonsense", "nobody~1", "nobody~timeout", "nobody~cron", "a~x", "~", "daily~cron", "L/x~gate")
            ),
            st.sampled_from(("L/~gates", "L/~gate", "nil/x~gate", "nil/~gates", "a~gate", "a~replaced")),
            st.builds(
                "{}~{}".format,
                members,
                st.sampled_from((*NUMBERS, "start", "retry", "timeout", "tell", "mail", "1~ask")),
            ),
        ),
        due=st.sampled_from((1, 1_800_000_000_001)),
    )
    def unknown_timer(self, member: str, due: int) -> None:
        self.both.add_timer(member, due)

    @rule(queue=st.sampled_from(QUEUES), id=st.sampled_from(("", "nobody", *ROOTS)), epoch=st.integers(1, 3))
    def unknown_entry(self, queue: str, id: str, epoch: int) -> None:
        self.both.add_entry(queue, id, epoch)


def _id_of(lease: Lease) -> str:
    return lease.id


# The same examples every time, and others on each kind of server; or new ones, if that is asked for.
PROFILE = (
    settings(max_examples=EXAMPLES, stateful_step_count=60, print_blob=True)
    if EXAMPLES
    else settings(stateful_step_count=30, phases=[Phase.generate])
)
IN_ALL, OF_ONE_KIND_MAX = 120, 60


@pytest.mark.timeout(300 if not EXAMPLES else 0)
def test_the_scripts_do_what_the_model_says(
    server: Server,
    namespace: str,
    share: Callable[[Sequence[int]], Sequence[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script, "load", load_standing)

    class OnServer(Machine):
        pass

    OnServer.server, OnServer.namespace = server, namespace
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    profile = settings(PROFILE, database=None, report_multiple_bugs=False, suppress_health_check=checks)
    if not EXAMPLES:
        profile = settings(profile, max_examples=min(OF_ONE_KIND_MAX, len(share(range(IN_ALL)))))
        seed(server.kind)(OnServer)
    run_state_machine_as_test(OnServer, settings=profile)  # pyright: ignore[reportUnknownMemberType]


@pytest.fixture
def both(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    monkeypatch.setattr(script, "load", load_standing)
    both = Both(server.sync_client(), namespace)
    yield both
    both.clear()


WORKER, OTHER = CONSUMERS
THIRD = "w3/cccccccc"
NAP = StartTimer(Number("1"), "nap", Due("+5"))


def take(both: Both, consumer: str = WORKER) -> Lease:
    lease = both.read(consumer, "workers")
    assert lease
    return lease


def wake(both: Both) -> None:
    both.move_clock(5)
    both.fire(64)


def tells(both: Both) -> list[bool]:
    return [entry.snapshot is not None for entry in both.model.stream]


def test_a_sleeper_that_is_waked_is_told_by_its_entry(both: Both) -> None:
    both.create([Create("a")])
    both.commit(WORKER, [Commit(take(both), CommitAction.SUSPEND, (NAP,))])
    wake(both)
    assert tells(both) == [True]


def test_what_happens_behind_an_entry_is_not_told_by_it(both: Both) -> None:
    """The entry keeps its data from the dispatch; the answer to the first commit brings the rest."""
    both.create([Create("a")])
    ask = StartPromise(Number("2"), "", None)
    both.commit(WORKER, [Commit(take(both), CommitAction.SUSPEND, (NAP, ask))])
    wake(both)
    both.settle([("a~2", State.RESOLVED, b"v1")])
    told = both.model.stream[0].snapshot
    assert told
    assert told.unseen == ("1",)
    lease = take(both)
    stamp = dict(told.journal)["1"].stamp
    both.commit(WORKER, [Commit(lease, CommitAction.SUSPEND, (), stamp, "1")])  # its answer is compared


def test_a_cancel_makes_a_new_entry_for_what_nobody_holds(both: Both) -> None:
    both.create([Create("a")])
    both.commit(WORKER, [Commit(take(both), CommitAction.SUSPEND, (NAP,))])
    wake(both)
    both.control([("cancel", "a", "")])
    both.repeat()
    assert tells(both) == [False]
    assert take(both).epoch == 3
    both.control([("cancel", "a", "")])
    assert take_none(both), "what somebody holds stays where it is"


def fleet(both: Both, **functions: str) -> None:
    for consumer, has in zip((WORKER, OTHER, THIRD), functions.values(), strict=True):
        both.heartbeat(consumer, "workers", [], has)


def held_by(both: Both) -> list[str | None]:
    return [entry.holder for entry in both.model.stream]


def test_what_a_worker_does_not_know_goes_to_one_of_other_functions(both: Both) -> None:
    """The same commit again in the batch is fenced: the lease has gone."""
    fleet(both, w1="some", w2="some", w3="all")
    both.create([Create("a")])
    lease = take(both)
    declined = Commit(lease, CommitAction.DEFER, due="+5", functions="some")
    both.commit(WORKER, [declined, declined])
    both.repeat()
    assert held_by(both) == [THIRD]
    both.commit(OTHER, [Commit(lease, CommitAction.RESOLVE)])
    both.commit(THIRD, [Commit(lease, CommitAction.RESOLVE)])
    assert held_by(both) == []


def test_what_nobody_knows_is_offered_to_each_set_of_functions_once(both: Both) -> None:
    fleet(both, w1="some", w2="few", w3="few")
    both.create([Create("a"), Create("own", queue="workers/w1")])
    lease = take(both)
    both.commit(WORKER, [Commit(lease, CommitAction.DEFER, due="+5", functions="some")])
    [other] = [entry.holder for entry in both.model.stream if entry.id == "a"]
    assert other
    assert other != WORKER
    both.commit(other, [Commit(lease, CommitAction.DEFER, due="+5", functions="few")])
    both.move_clock(5)
    both.fire(64)
    both.commit(OTHER, [Commit(take(both, OTHER), CommitAction.DEFER, due="+5", functions="few")])
    assert both.model.promises[0][1].place is Place.DELAYED
    own = both.read(WORKER, "workers/w1")
    assert own
    both.commit(WORKER, [Commit(own, CommitAction.DEFER, due="+5", functions="some")])
    assert held_by(both) == [], "what is for one worker is for no other"


def test_who_has_no_room_keeps_what_nobody_else_may_know(both: Both) -> None:
    fleet(both, w1="some", w2="all", w3="some")
    both.create([Create("a")])
    lease = take(both)
    both.commit(WORKER, [Commit(lease, CommitAction.DEFER, due="+5", functions="some")])
    full = Commit(lease, CommitAction.DEFER, due="+5", functions=KEEP)
    both.commit(OTHER, [full, full])
    both.repeat()
    assert held_by(both) == [OTHER]
    both.heartbeat(THIRD, "workers", [], "others")
    both.commit(OTHER, [full])
    assert held_by(both) == [THIRD]


@pytest.mark.parametrize("how", ["gone", "silent", "leaving", "of an earlier version"])
def test_nothing_is_offered_to_who_cannot_take_it(both: Both, how: str) -> None:
    fleet(both, w1="some", w2="" if how == "leaving" else "all", w3="some")
    match how:
        case "gone":
            both.fade(OTHER)
        case "silent":
            both.move_clock(3_000)
            both.heartbeat(WORKER, "workers", [], "some")
        case "of an earlier version":
            both.heartbeat(OTHER, "workers", [], "")
        case _:
            pass
    both.create([Create("a")])
    both.commit(WORKER, [Commit(take(both), CommitAction.DEFER, due="+5", functions="some")])
    assert both.model.promises[0][1].place is Place.DELAYED


def test_a_beat_strikes_who_was_not_heard_of_for_long(both: Both) -> None:
    for consumer in CONSUMERS:
        both.heartbeat(consumer, "workers", [])
    both.fade(WORKER)
    both.heartbeat(OTHER, "workers", [])
    assert [name for name, _ in both.model.beats] == [OTHER]


def test_who_has_missed_its_beats_has_no_rank_and_stays_to_be_judged(both: Both) -> None:
    both.heartbeat(WORKER, "workers", [])
    both.heartbeat(OTHER, "workers", [])
    both.move_clock(3_000)
    both.heartbeat(OTHER, "workers", [])
    assert [name for name, _ in both.model.beats] == [*CONSUMERS]


def take_none(both: Both) -> bool:
    return both.read(OTHER, "workers") is None


def test_what_is_given_to_another_worker_is_not_told(both: Both) -> None:
    both.create([Create("a")])
    lease = take(both)
    both.reclaim(WORKER, "workers", beat=None, release="some", max_attempts=3, limit=1, entries=[lease.entry])
    assert tells(both) == [False]


def test_what_workers_died_of_is_not_told(both: Both) -> None:
    """However it comes back, its next worker must know that it is a suspect."""
    both.create([Create("a")])
    take(both)
    both.reclaim(WORKER, "workers", beat=None, release="", max_attempts=3, limit=256, entries=[])
    both.commit(OTHER, [Commit(take(both, OTHER), CommitAction.DEFER, due="+5")])
    assert both.model.promises[0][1].crash_count == 1
    wake(both)
    assert tells(both) == [False]


def test_a_new_run_that_sleeps_tells_when_it_began(both: Both) -> None:
    both.create([Create("a")])
    both.move_clock(1000)
    both.commit(WORKER, [Commit(take(both), CommitAction.CONTINUE_AS_NEW, due="3")])
    assert tells(both) == [False]
    both.commit(WORKER, [Commit(take(both), CommitAction.SUSPEND, (StartTimer(Number("4"), "nap", Due("+5")),))])
    wake(both)
    assert tells(both) == [True]


def wait_for_messages(both: Both, *channels: str, due: str = "") -> None:
    """Execution ``a`` waits for messages."""
    asked = [
        StartReceive(Number(str(number)), channel, Due(due) if due else None)
        for number, channel in enumerate(channels, 1)
    ]
    both.commit(WORKER, [Commit(take(both), CommitAction.SUSPEND, tuple(asked))])


def seen_in(both: Both, id: str) -> tuple[int, str]:
    promise = both.model.promise(id)
    settled = [(entry.stamp, number) for number, entry in promise.journal if entry.stamp] if promise else []
    return max(settled, default=(0, ""))


A1, A2 = Send("a", "a", b"a1", "one"), Send("a", "a", b"a2", "two")
FAR = Waiter("b~1", NOON_MS, is_foreign=True)


def test_what_was_loaded_and_not_told_is_given_back_in_its_order(both: Both) -> None:
    """Both receives have a message, and a canceled one gives it to the next; a new run gives it to the mailbox."""
    both.create([Create("a")])
    wait_for_messages(both, "a", "a", "a")
    both.send([A1, A2])
    lease = take(both)
    stamp, number = seen_in(both, "a")
    both.commit(
        WORKER, [Commit(lease, ops=(CancelEntry(Number("1"), Kind.RECEIVE, "a"),), seen=stamp, seen_number="2")]
    )
    both.repeat()
    assert [entry.payload for _, entry in both.model.promises[0][1].journal] == [b"", b"a2", b"a1"]
    assert number == "2"
    both.commit(WORKER, [Commit(lease, CommitAction.CONTINUE_AS_NEW, due="3")])
    both.repeat()
    [(_, box)] = both.model.mail
    assert [one.text for one in dict(box.unread)["a"]] == [b"a1"], "the other one has been named as seen"


def test_a_new_run_reads_the_oldest_message_first(both: Both) -> None:
    both.create([Create("a")])
    wait_for_messages(both, "a", "b", "a")
    both.send([A1, A2, A1._replace(call="three", text=b"a3")])
    both.commit(WORKER, [Commit(take(both), CommitAction.CONTINUE_AS_NEW, due="3")])
    [(_, box)] = both.model.mail
    assert [one.text for one in dict(box.unread)["a"]] == [b"a1", b"a2", b"a3"]


def test_a_repeated_send_is_answered_after_the_end(both: Both) -> None:
    both.create([Create("a")])
    wait_for_messages(both, "a")
    both.send([A1, A1._replace(channel="b", call="key of one", key="key")])
    both.commit(WORKER, [Commit(take(both), CommitAction.RESOLVE)])
    both.send([A1, A1._replace(channel="b", call="key of one", key="key")])
    both.send([A2, A2._replace(channel="b", key="key")])
    both.expire("a")
    both.send([A1, A2])


@pytest.mark.parametrize("how", ["again", "anew", "retry"])
def test_the_next_execution_under_an_id_knows_only_the_senders_elsewhere(both: Both, how: str) -> None:
    keyed, far = A2._replace(key="key"), Send("a", "a", b"far", sender=FAR)
    both.create([Create("a")])
    both.send([A1, keyed, far])
    both.commit(WORKER, [Commit(take(both), CommitAction.REJECT)])
    match how:
        case "again":
            both.expire("a")
            both.create([Create("a")])
        case "anew":
            both.create([Create("a", idempotency_key="anew", mode="s")])
        case _:
            both.control([("retry", "a", "")])
    both.send([far])
    both.send([keyed, far])
    wait_for_messages(both, "a", "a")
    both.move_clock(60_000)
    both.fire(64)


def test_a_refusal_is_repeated_to_a_sender_elsewhere(both: Both) -> None:
    far = Send("a", "a", b"far", sender=FAR)
    both.send([far])
    both.send([far])
    both.create([Create("a")])
    both.send([far, A1])
    both.move_clock(10_000)
    both.fire(64)
    both.told_of([Told("a", FAR)])
    both.send([far])
    both.move_clock(60_000)
    both.fire(64)
    assert not both.model.timers


def test_a_question_waits_for_its_answer_and_for_the_end_of_who_is_asked(both: Both) -> None:
    asked = A1._replace(reply="reply", due="+60000", inbox="reader")
    both.create([Create("a")])
    both.send([asked])
    both.repeat()
    both.commit(WORKER, [Commit(take(both), ops=(StartReceive(Number("1"), "a", None),))])
    assert dict(both.model.promises)["a"].journal[0][1].child_id == "reply"
    both.control([("force", "a", "")])
    both.send([asked, asked._replace(reply="reply2", call="another")])
    both.expire("a")
    both.send([asked])
