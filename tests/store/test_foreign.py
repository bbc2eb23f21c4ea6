"""Calls from one partition to another, message by message: each may be lost, come twice or late."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from durasleep.errors import DurasleepError, Ended, MailboxFull, NotAllowed, NotFound, StoreFull
from durasleep.model import (
    CancelEntry,
    CommitAction,
    Kind,
    Number,
    Place,
    PromiseId,
    SendMessage,
    SettlePromise,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    Transaction,
)
from durasleep.protocol import foreign, promises
from durasleep.protocol.foreign import Ask, Heard, Message, Question, Tell
from durasleep.protocol.keys import LIMIT
from durasleep.protocol.partitions import partition_of
from durasleep.protocol.script import load
from durasleep.protocol.timers import Fired
from durasleep.query import fsck
from durasleep.query.fsck import Finding
from harness.servers import Server
from tests.store.driver import FAR, PAST, Driver, child

PARTITIONS = 4


def id_in(partition: int, name: str) -> str:
    return next(id for n in range(1000) if partition_of(id := f"{name}-{n}", PARTITIONS) == partition)


CALLER, CALLED = id_in(3, "caller"), id_in(1, "called")
ENTRY = f"{CALLER}~1"
ASK, TELL = f"{ENTRY}~ask", f"{CALLED}~tell"


@pytest.fixture(autouse=True)
def one_partition() -> None:
    """Here are two."""


@pytest.fixture
async def here(server: Server, namespace: str) -> AsyncIterator[Driver]:
    """Where the caller is."""
    here = Driver(server.client(), namespace)
    await here.store.init(PARTITIONS)
    yield here
    await here.store.aclose()


@pytest.fixture
async def there(here: Driver, server: Server, namespace: str) -> AsyncIterator[Driver]:
    """Where the execution is that is called."""
    there = Driver(server.client(), namespace)
    there.partition = 1
    async with there.store.opened():
        yield there


async def asked(here: Driver) -> Ask:
    """A call that a firing finds."""
    await here.suspended(CALLER, child("1", CALLED))
    return await found_ask(here)


async def found_ask(here: Driver) -> Ask:
    [ask] = (await here.fire()).asks
    assert isinstance(ask, Ask)
    return ask


async def begin(here: Driver, there: Driver, ask: Ask) -> State:
    return (await here.store.call(foreign.pose(there.keys, ask, here.keys))).state


async def hear(here: Driver, ask: Question, state: State, value: bytes = b"") -> bool:
    return await here.store.call(foreign.hear(here.keys, ask.entry_id, ask.incarnation, ask.child_id, state, value))


async def ended(here: Driver, there: Driver) -> tuple[Ask, Tell]:
    """A call that was heard, whose execution has ended; and what a firing finds to tell."""
    ask = await asked(here)
    await begin(here, there, ask)
    assert await hear(here, ask, State.PENDING)
    await there.commit(await there.take(), CommitAction.RESOLVE, payload=b"result")
    [tell] = (await there.fire()).tells
    return ask, tell


async def tell_all(here: Driver, there: Driver, ask: Ask, tell: Tell) -> None:
    assert tell.value is not None
    await hear(here, ask, tell.state, tell.value)
    for waiter in tell.waiters:
        await there.store.call(foreign.told(there.keys, tell.id, waiter))


async def end(here: Driver) -> None:
    await here.commit(await here.take(), CommitAction.RESOLVE)


async def found(driver: Driver, *, repair: bool = False) -> list[Finding]:
    return (await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=repair))).findings


async def test_a_call_is_asked_for_again_until_it_was_heard(here: Driver, there: Driver) -> None:
    ask = await asked(here)
    assert (ask.entry_id, ask.child_id, ask.function, ask.args) == (ENTRY, CALLED, "g", b"args")
    await here.redis.zadd(here.keys.timers, {ASK: 1})
    assert (await here.fire()).asks == [ask], "its answer was lost"
    for _ in range(2):
        assert await begin(here, there, ask) is State.PENDING
    assert await there.queued() == [CALLED]
    assert await hear(here, ask, State.PENDING)
    now_ms = (await here.fire()).server_us // 1000
    assert 59_000 < (await here.timers())[ASK] - now_ms <= 60_000
    await here.control("force", CALLER)
    assert await here.timers() == {}
    await there.control("force", CALLED)
    [tell] = (await there.fire()).tells
    await tell_all(here, there, ask, tell)


async def test_an_ending_is_told_again_until_it_was_heard(here: Driver, there: Driver) -> None:
    ask, tell = await ended(here, there)
    assert (tell.id, tell.state, tell.value) == (CALLED, State.RESOLVED, b"result")
    assert tell.waiters == [foreign.waiter_of(ask, here.keys)]
    assert await there.ttl_ms(CALLED) == -1, "it waits to be told"
    await there.redis.zadd(there.keys.timers, {TELL: 1})
    assert (await there.fire()).tells == [tell]
    for is_first in (True, False):
        assert await hear(here, ask, tell.state, b"result") is is_first
        await there.store.call(foreign.told(there.keys, tell.id, tell.waiters[0]))
    assert (await here.entry(CALLER, "1")).payload == b"result"
    assert await here.place(CALLER) is Place.QUEUED
    assert await here.timers() == await there.timers() == {}
    await there.assert_kept_together(CALLED)
    await end(here)


async def test_what_is_kept_shortly_is_there_for_a_late_question(here: Driver, there: Driver) -> None:
    ask = await asked(here)
    await there.create(CALLED, "g", retention_ms=1)
    await begin(here, there, ask)
    await there.commit(await there.take(), CommitAction.RESOLVE, payload=b"result")
    [tell] = (await there.fire()).tells
    await tell_all(here, there, ask, tell)
    assert 590_000 < await there.ttl_ms(CALLED) <= 600_000
    assert await begin(here, there, ask) is State.RESOLVED, "it does not begin again"
    await end(here)


@pytest.mark.parametrize("how", ["canceled", "ended", "begun anew", "forced"])
async def test_who_waits_no_longer_asks_for_nothing_and_hears_nothing(here: Driver, there: Driver, how: str) -> None:
    lease = await here.start(CALLER)
    await here.commit(lease, CommitAction.CONTINUE, child("1", CALLED))
    ask = await found_ask(here)
    await begin(here, there, ask)
    match how:
        case "canceled":
            await here.commit(lease, CommitAction.CONTINUE, CancelEntry(Number("1"), Kind.CHILD, "g"))
        case "ended":
            await here.commit(lease, CommitAction.RESOLVE)
        case "begun anew":
            await here.commit(lease, CommitAction.CONTINUE_AS_NEW, due="2")
            await here.fire_all()
        case _:
            await here.control("force", CALLER)
    assert ASK not in await here.timers()
    before = await here.load(CALLER)
    for state in (State.PENDING, State.RESOLVED):
        assert not await hear(here, ask, state, b"late")
    assert await here.load(CALLER) == before
    assert ASK not in await here.timers()
    await there.control("force", CALLED)
    [tell] = (await there.fire()).tells
    await tell_all(here, there, ask, tell)
    await here.control("force", CALLER)


async def test_hundreds_in_other_partitions_hear_of_one_ending(here: Driver, there: Driver) -> None:
    """Their waiters are in a set, among those of this partition; as many are told at a time as one answer carries."""
    waiters = [f"3 {number} caller~{number}" for number in range(300)]
    called = PromiseId(CALLED)
    await there.create(CALLED, "g", inbox="client")
    for waiter in waiters:
        await there.store.call(promises.create(there.keys, called, kind=Kind.EXECUTION, function="g", waiter=waiter))
    await there.commit(await there.take(), CommitAction.RESOLVE, payload=b"x" * 100_000)
    await there.fire_all()
    told: list[str] = []
    while TELL in await there.timers():
        await there.redis.zadd(there.keys.timers, {TELL: 1})
        for tell in (await there.fire()).tells:
            assert tell.value is None, "it is too large, and read by whoever tells it"
            assert 0 < len(tell.waiters) <= 64
            for waiter in tell.waiters:
                await there.store.call(foreign.told(there.keys, tell.id, waiter))
            told += tell.waiters
    assert sorted(told) == sorted(waiters)
    await there.assert_kept_together(CALLED)
    await there.redis.delete(there.keys.inbox("client"))


# -- messages


MAIL = f"{CALLED}~mail"
SENT = b"sent"


async def sending(here: Driver) -> Message:
    """A message that a firing finds; who sends it waits for nothing else."""
    await here.suspended(CALLER, SendMessage(Number("1"), "x", PromiseId(CALLED), SENT))
    [question] = (await here.fire()).asks
    assert isinstance(question, Message)
    return question


async def pose(here: Driver, there: Driver, question: Question) -> Heard:
    return foreign.heard_of(await here.store.call(foreign.pose(there.keys, question, here.keys)))


async def told(here: Driver, there: Driver, question: Question) -> None:
    waiter = foreign.waiter_of(question, here.keys)
    await there.store.call(foreign.told(there.keys, question.child_id, waiter))


async def due_now(driver: Driver, member: str) -> Fired:
    await driver.redis.zadd(driver.keys.timers, {member: 1})
    return await driver.fire()


async def heard_long_ago(there: Driver) -> None:
    """Its sender has heard, and so long ago that no late copy of its question can come: its line goes."""
    key = f"{there.keys.tag}mail:{CALLED}"
    for name, value in (await there.mail(CALLED)).items():
        if name.startswith("x"):
            assert len(value) > 1, "it has not heard"
            await there.redis.hset(key, name, value[:1] + b"1")
    assert (await due_now(there, MAIL)).tells == []
    assert MAIL not in await there.timers()
    assert not any(name.startswith("x") for name in await there.mail(CALLED))


async def test_a_message_is_asked_for_until_its_sender_has_heard_and_counts_once(here: Driver, there: Driver) -> None:
    await there.suspended(CALLED, StartTimer(Number("1"), "", FAR))
    question = await sending(here)
    assert (question.entry_id, question.child_id, question.value) == (ENTRY, CALLED, SENT)
    for _ in range(3):  # the answer was lost
        assert await pose(here, there, question) == Heard(State.RESOLVED, b"s")
        assert (await due_now(here, ASK)).asks == [question]
    assert await there.unread(CALLED) == [("x", SENT)]
    assert await hear(here, question, State.RESOLVED, b"s")
    assert not await hear(here, question, State.RESOLVED, b"s")
    entry = await here.entry(CALLER, "1")
    assert (entry.state, entry.payload, entry.child_id) == (State.RESOLVED, b"s", CALLED)
    assert await here.place(CALLER) is Place.QUEUED
    assert await here.timers() == {}
    # That it has heard was lost: it is told again, and again.
    for _ in range(2):
        [tell] = (await due_now(there, MAIL)).tells
        assert (tell.id, tell.state, tell.value) == (CALLED, State.RESOLVED, b"s")
        assert tell.waiters == [foreign.waiter_of(question, here.keys)]
        await hear(here, question, tell.state, b"s")
    await told(here, there, question)
    assert (await due_now(there, MAIL)).tells == []
    assert await pose(here, there, question) == Heard(State.RESOLVED, b"s"), "a late copy of the question"
    await heard_long_ago(there)
    assert await there.unread(CALLED) == [("x", SENT)]
    assert {name[0] for name in await there.mail(CALLED)} == {"n", "c", "m"}
    await end(here)
    await there.control("force", CALLED)


@pytest.mark.parametrize("is_delivered", [True, False])
async def test_a_message_was_sent_though_its_reader_ends_before_the_sender_hears(
    here: Driver, there: Driver, is_delivered: bool
) -> None:
    lease = await there.start(CALLED)
    ops = [StartReceive(Number("1"), "x", None)] if is_delivered else []
    await there.commit(lease, CommitAction.CONTINUE, *ops)
    await there.send(CALLED, "y", b"unread", key="k")
    question = await sending(here)
    answer = await pose(here, there, question)
    assert answer.value == (b"d" if is_delivered else b"s")
    await there.commit(lease, CommitAction.RESOLVE)
    waiter = foreign.waiter_of(question, here.keys)
    assert (await there.mail(CALLED))[f"x{waiter}"] == answer.value
    mail = f"{there.keys.tag}mail:{CALLED}"
    assert await there.redis.pttl(mail) == -1, "it is kept as long as somebody has not heard"
    assert await pose(here, there, question) == answer
    [tell] = (await due_now(there, MAIL)).tells
    assert (tell.waiters, tell.value) == ([waiter], answer.value)
    # Another execution takes its id meanwhile, and has the mailbox.
    await there.redis.delete(there.keys.promise(CALLED))
    await there.create(CALLED)
    await there.send(CALLED, "y", b"new", key="k")
    assert await there.redis.pttl(mail) == -1
    assert await pose(here, there, question) == answer
    assert await there.unread(CALLED) == [("y", b"new")]
    await there.control("force", CALLED)
    await hear(here, question, State.RESOLVED, answer.value)
    await told(here, there, question)
    await heard_long_ago(there)
    assert 0 < await there.redis.pttl(mail) <= LIMIT["ended_mailbox_ms"]
    await end(here)


@pytest.mark.parametrize("how", ["canceled", "forced", "begun anew"])
async def test_a_sender_that_is_gone_is_told_and_hears_nothing(here: Driver, there: Driver, how: str) -> None:
    await there.create(CALLED)
    lease = await here.start(CALLER)
    await here.commit(lease, CommitAction.CONTINUE, SendMessage(Number("1"), "x", PromiseId(CALLED), SENT))
    [question] = (await here.fire()).asks
    await pose(here, there, question)
    match how:
        case "canceled":
            await here.commit(lease, CommitAction.CONTINUE, CancelEntry(Number("1"), Kind.SEND, "x"))
        case "forced":
            await here.control("force", CALLER)
        case _:
            await here.commit(lease, CommitAction.CONTINUE_AS_NEW, due="2")
            await here.fire_all()
    assert ASK not in await here.timers()
    [tell] = (await due_now(there, MAIL)).tells
    assert not await hear(here, question, tell.state, b"s")
    await told(here, there, question)
    await heard_long_ago(there)
    await here.control("force", CALLER)
    await there.control("force", CALLED)


async def test_a_message_that_is_refused_is_no_reason_to_keep_its_reader(here: Driver, there: Driver) -> None:
    question = await sending(here)
    with pytest.raises(NotFound):
        await pose(here, there, question)
    await there.start(CALLED)
    with pytest.raises(NotFound):
        await pose(here, there, question)  # its sender may have heard that it was refused
    [tell] = (await due_now(there, MAIL)).tells
    assert (tell.state, tell.value) == (State.REJECTED, b"N")
    await told(here, there, question)
    await heard_long_ago(there)
    await there.send(CALLED, value=b"x" * LIMIT["mailbox_bytes_max"])
    with pytest.raises(MailboxFull):
        await pose(here, there, question)
    await told(here, there, question)
    await heard_long_ago(there)
    await there.control("force", CALLED)
    with pytest.raises(Ended, match="has ended: canceled"):
        await pose(here, there, question)
    await there.redis.pexpire(there.keys.promise(CALLED), 5000)
    await told(here, there, question)
    assert await there.ttl_ms(CALLED) <= 5000
    await here.control("force", CALLER)


async def test_lines_of_senders_that_have_not_heard_are_bounded_and_refuse_no_others(
    here: Driver, there: Driver
) -> None:
    await there.suspended(CALLED, StartReceive(Number("1"), "x", None))
    await there.send(CALLED, "y")
    lines = {f"x2 7 {CALLER}~{n}": "s" for n in range(10, 10 + LIMIT["mail_lines_max"])}
    key = f"{there.keys.tag}mail:{CALLED}"
    await there.redis.hset(key, mapping=lines | {"n": f"1 0 0 1 {len(lines)}"})
    question = await sending(here)
    with pytest.raises(StoreFull, match="has answered 10000 other partitions just now"):
        await pose(here, there, question)  # it is no answer: the sender asks again
    assert (await there.send(CALLED)).delivery == "delivered"
    assert (await there.send(CALLED)).delivery == "stored"
    [*tells] = (await due_now(there, MAIL)).tells
    assert 0 < len(tells) <= 64
    await here.control("force", CALLER)
    await there.control("force", CALLED)
    await there.redis.delete(key)
    await due_now(there, MAIL)


async def test_a_promise_elsewhere_is_settled_once_and_its_settler_hears(here: Driver, there: Driver) -> None:
    await there.suspended(CALLED, StartPromise(Number("1"), "", None))
    await there.create("p", kind=Kind.PROMISE)
    target = PromiseId(f"{CALLED}~1")
    for number, value, heard in (("1", b"v", b"1"), ("2", b"v", b"1"), ("3", b"other", b"0")):
        await here.suspended(CALLER, SettlePromise(Number(number), target, State.RESOLVED, value))
        [question] = (await here.fire()).asks
        for _ in range(2):
            assert await pose(here, there, question) == Heard(State.RESOLVED, heard)
        assert await hear(here, question, State.RESOLVED, heard)
        assert (await here.entry(CALLER, number)).payload == heard
        await end(here)
        await here.redis.delete(here.keys.promise(CALLER))
    assert (await there.entry(CALLED, "1")).payload == b"v"
    await there.control("force", CALLED)
    await there.control("force", "p")


@pytest.mark.parametrize("target", [CALLED, f"{CALLED}~1", f"{CALLED}~2", f"{CALLED}~9"])
async def test_nothing_else_is_settled_from_elsewhere(here: Driver, there: Driver, target: str) -> None:
    await there.suspended(CALLED, StartTimer(Number("1"), "", FAR), StartReceive(Number("2"), "x", None))
    await here.suspended(CALLER, SettlePromise(Number("1"), PromiseId(target), State.RESOLVED, b""))
    [question] = (await here.fire()).asks
    before = await there.load(CALLED)
    with pytest.raises(DurasleepError) as refused:
        await pose(here, there, question)
    assert isinstance(refused.value, NotAllowed | NotFound)
    assert await there.load(CALLED) == before
    await here.control("force", CALLER)
    await there.control("force", CALLED)


async def test_a_message_that_asks_nobody_is_found_and_asks_again(here: Driver, there: Driver) -> None:
    question = await sending(here)
    assert await found(here) == []
    await here.redis.zrem(here.keys.timers, ASK)
    [finding] = await found(here, repair=True)
    assert (finding.kind, finding.id, finding.repaired) == ("untimed", ENTRY, True)
    assert (await here.fire()).asks == [question]
    await here.control("force", CALLER)
    await there.fire()


# -- what is broken


async def test_a_call_that_asks_for_nothing_is_found_and_asks_again(here: Driver, there: Driver) -> None:
    ask = await asked(here)
    assert await found(here) == []
    await here.redis.zrem(here.keys.timers, ASK)
    [finding] = await found(here)
    assert (finding.kind, finding.id, finding.repairable) == ("untimed", ENTRY, True)
    await found(here, repair=True)
    assert (await here.fire()).asks == [ask]
    assert await found(here) == []
    await here.control("force", CALLER)


async def test_an_ending_that_nobody_tells_is_found_and_told(here: Driver, there: Driver) -> None:
    ask, tell = await ended(here, there)
    assert await found(here) == []
    await there.redis.zrem(there.keys.timers, TELL)
    [finding] = await found(here)
    assert (finding.kind, finding.id, finding.repairable) == ("untold", CALLED, True)
    await found(here, repair=True)
    assert (await there.fire()).tells == [tell]
    assert await found(here) == []
    await tell_all(here, there, ask, tell)
    await end(here)


async def test_messages_for_nobody_are_found_and_removed(here: Driver) -> None:
    await here.suspended(CALLER, child("1", CALLED))
    members = [f"{CALLER}~2~ask", "nobody~1~ask", f"{CALLER}~tell", "nobody~tell"]
    await here.redis.zadd(here.keys.timers, dict.fromkeys(members, 4e12))
    findings = await found(here, repair=True)
    assert sorted((one.kind, one.id) for one in findings) == [("timer", member) for member in sorted(members)]
    assert (await here.timers()).keys() == {ASK}
    await here.control("force", CALLER)


async def test_a_firing_forgets_messages_for_nobody(here: Driver) -> None:
    await here.create("bare", kind=Kind.PROMISE, deadline=PAST)
    await here.fire_all()
    members = ["nobody~1~ask", "bare~1~ask", "nobody~tell", "bare~tell"]
    await here.redis.zadd(here.keys.timers, dict.fromkeys(members, 1))
    fired = await here.fire()
    assert (fired.stale, fired.asks, fired.tells, fired.quarantined) == (4, [], [], [])
    assert await here.timers() == {}


async def test_keys_of_users_are_left_alone(here: Driver) -> None:
    key = f"{here.keys.own}counter"
    await here.redis.set(key, 1)
    assert await found(here, repair=True) == []
    assert await here.redis.get(key) == b"1"
    assert LIMIT["waiters_bytes_max"] < 300 * len("x3 1 caller~1"), "so the hundreds above are a set"


# -- transactions


KEYS_OF: list[tuple[tuple[str, ...], bool]] = [
    (("SET", "own:a", "other"), True),
    (("SET", "other", "own:a"), False),
    (("MSET", "own:a", "1", "own:b", "2"), True),
    (("MSET", "own:a", "1", "other", "2"), False),
    (("DEL", "own:a", "own:b"), True),
    (("DEL", "own:a", "other"), False),
    (("HSET", "own:h", "field", "value"), True),
    (("RENAME", "own:a", "other"), False),
    (("SADD", "own:s", "other", "another"), True),
    (("PING",), True),
    (("KEYS", "*"), False),
    (("RANDOMKEY",), False),
    (("NOSUCH", "own:a"), False),
]
"""Commands, and whether all their keys stand beside the execution."""


@pytest.mark.parametrize(("command", "is_allowed"), KEYS_OF, ids=[" ".join(command) for command, _ in KEYS_OF])
async def test_a_transaction_uses_the_keys_beside_its_execution_and_no_others(
    here: Driver, command: tuple[str, ...], is_allowed: bool
) -> None:
    lease = await here.start(CALLER)
    words = [word.replace("own:", here.keys.own).encode() for word in command]
    making = (b"MSET", *[f"{here.keys.own}{name}".encode() for name in "aabb"])
    committing = here.commit(lease, CommitAction.CONTINUE, Transaction(Number("1"), (making, tuple(words))))
    if is_allowed:
        [entry] = (await committing).entries
        assert entry.state is State.RESOLVED
    else:
        with pytest.raises(NotAllowed, match=r"ctx\.key|its keys are not known"):
            await committing
        assert not await here.redis.exists(f"{here.keys.own}a")
    await here.redis.delete(*[f"{here.keys.own}{name}" for name in "abhs"])
    await here.control("force", CALLER)


async def test_the_commands_with_any_number_of_keys_are_those_of_the_server(one_server: Server) -> None:
    """For fakeredis, which does not know them."""
    text = load("commit").source.decode()
    [names] = re.findall(r"'(BITOP [A-Z ]+)'", text)
    known = await one_server.client().command()
    to_the_end = {
        name.upper()
        for name, told in known.items()
        if told["last_key_pos"] == -1 and not {"movablekeys", "noscript"} & {str(flag) for flag in told["flags"]}
    }
    assert set(names.split()) == to_the_end
