"""Data broken by hand: each break is found and named, nothing else is, and what is mended goes on as it should."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from durasleep.errors import UsageError
from durasleep.model import (
    CommitAction,
    Due,
    Kind,
    Mark,
    Number,
    Place,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    StepResult,
)
from durasleep.protocol import command
from durasleep.protocol.command import BatchItem
from durasleep.protocol.keys import F, S
from durasleep.query import fsck
from durasleep.query.fsck import Report
from harness.servers import Server
from tests.store.driver import FAR, PAST, WORKER, Driver, child

TIMER = StartTimer(Number("1"), "", FAR)


def receive(number: str, channel: str, due: Due | None = None) -> StartReceive:
    return StartReceive(Number(number), channel, due)


async def check(driver: Driver, *, repair: bool = False) -> Report:
    return await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=repair))


async def healthy(driver: Driver) -> None:
    """One of everything, all of it as it should be."""
    await driver.suspended("sleeper", TIMER, StartPromise(Number("2"), "approval", None))
    await driver.suspended("parent", child("1"), child("2", id="named"))
    for lease in await driver.read(2):
        await driver.commit(lease, CommitAction.SUSPEND, TIMER)
    await driver.create("p", kind=Kind.PROMISE, deadline=FAR)
    await driver.create("later", start=FAR, deadline=Due("+7200000"))
    lease = await driver.start("done")
    await driver.commit(lease, CommitAction.RESOLVE, StepResult(Number("1"), "step", State.RESOLVED, b"x"))
    await driver.start("stopped")
    await driver.control("halt", "stopped", reason="why")
    await driver.commit(await driver.start("again"), CommitAction.RETRY, due="+3600000", payload=b"why")
    await driver.redis.hset(driver.keys.schedule("nightly"), S["due"], "4000000000000")
    await driver.redis.zadd(driver.keys.timers, {"nightly~cron": 4e12})
    await driver.suspended("reader", receive("1", "x"), receive("2", "y", FAR))
    await driver.send("reader", "z", b"unread", key="k")
    await driver.create("queued", args=b"the arguments")
    await driver.beat()


async def test_what_the_scripts_write_is_clean(driver: Driver) -> None:
    await healthy(driver)
    report = await check(driver)
    assert report.findings == []
    assert report.is_clean
    assert report.checked["promise"] == 11
    assert report.checked["timer"] == 9
    assert report.checked["mail"] == 1
    assert report.checked["entry"] == 1
    assert report.checked["member"] == 1


async def test_an_empty_namespace_is_clean(driver: Driver) -> None:
    assert (await check(driver)).is_clean


Break = Callable[[Driver], Awaitable[object]]


async def misquote(driver: Driver, old: bytes, new: bytes) -> None:
    """An entry that tells something else of its execution, in place of the one that "queued" has."""
    queue, promise = driver.keys.queue("workers"), driver.keys.promise("queued")
    [(entry, fields)] = await driver.redis.xrange(queue)
    assert fields[b"x"].count(old) == 1
    await driver.redis.xdel(queue, entry)
    other = await driver.redis.xadd(queue, fields | {b"x": fields[b"x"].replace(old, new)})
    await driver.redis.hset(promise, F["entry"], other)


async def another_incarnation(driver: Driver) -> None:
    incarnation = str((await driver.record("queued")).incarnation).encode()
    await misquote(driver, incarnation, b"1" * len(incarnation))


async def add_waiter(driver: Driver) -> None:
    promise = driver.keys.promise("named")
    waiters = await driver.redis.hget(promise, F["waiters"])
    await driver.redis.hset(promise, F["waiters"], waiters + b"p1 gone~7\n")


async def add_clients(driver: Driver) -> None:
    """As of clients that were killed: nothing keeps their inboxes alive."""
    for number in range(60):
        await driver.create("sleeper", inbox=f"dead{number}")
    for key in await driver.redis.keys(driver.keys.inbox("dead*")):
        await driver.redis.delete(key)


def mail(driver: Driver, fields: dict[str, str], id: str = "reader") -> Awaitable[object]:
    """Writes into a mailbox by hand. The one of "reader" has a message of six bytes."""
    return driver.redis.hset(f"{driver.keys.tag}mail:{id}", mapping=fields)


def index(driver: Driver, lines: str) -> Awaitable[object]:
    return driver.redis.hset(driver.keys.promise("reader"), F["receives"], lines)


BREAKS: dict[str, tuple[str, str, Break]] = {
    "a lost stream entry": ("unqueued", "queued", lambda d: d.redis.xtrim(d.keys.queue("workers"), maxlen=0)),
    "an entry delivered to nobody": (
        "undelivered",
        "queued",
        lambda d: d.redis.xgroup_setid(d.keys.queue("workers"), "workers", "$"),
    ),
    "an entry with another incarnation": ("misquoted", "queued", another_incarnation),
    "an entry with other arguments": ("misquoted", "queued", lambda d: misquote(d, b"arguments", b"augments ")),
    "an entry with another function": ("misquoted", "queued", lambda d: misquote(d, b"argumentsf", b"argumentsg")),
    "an entry that breaks off": ("misquoted", "queued", lambda d: misquote(d, b"\t13\n", b"\t")),
    "an entry without an end of line": ("misquoted", "queued", lambda d: misquote(d, b"\n", b" ")),
    "another epoch": ("unqueued", "queued", lambda d: d.redis.hset(d.keys.promise("queued"), F["epoch"], 7)),
    "a lost timer": ("untimed", "sleeper~1", lambda d: d.redis.zrem(d.keys.timers, "sleeper~1")),
    "a moved timer": ("mistimed", "sleeper~1", lambda d: d.redis.zadd(d.keys.timers, {"sleeper~1": 4e12})),
    "a lost start": ("untimed", "later~start", lambda d: d.redis.zrem(d.keys.timers, "later~start")),
    "a lost deadline": ("untimed", "later~timeout", lambda d: d.redis.zrem(d.keys.timers, "later~timeout")),
    "a lost timeout": ("untimed", "p~timeout", lambda d: d.redis.zrem(d.keys.timers, "p~timeout")),
    "a stray timer": ("timer", "nobody~1", lambda d: d.redis.zadd(d.keys.timers, {"nobody~1": 4e12})),
    "a stray timer of what has ended": ("timer", "done~5", lambda d: d.redis.zadd(d.keys.timers, {"done~5": 4e12})),
    "a delay without an end": ("unqueued", "later", lambda d: d.redis.hdel(d.keys.promise("later"), F["due"])),
    "a lost schedule": ("untimed", "nightly~cron", lambda d: d.redis.zrem(d.keys.timers, "nightly~cron")),
    "an entry of something else": (
        "unqueued",
        "stopped",
        lambda d: d.redis.hset(d.keys.promise("stopped"), mapping={F["place"]: "q", F["entry"]: "1-1"}),
    ),
    "an unnamed halt": ("unnamed", "stopped", lambda d: d.redis.zrem(d.keys.halted, "stopped")),
    "a name without a halt": ("halted", "sleeper", lambda d: d.redis.zadd(d.keys.halted, {"sleeper": 1})),
    "no place": ("nowhere", "sleeper", lambda d: d.redis.hdel(d.keys.promise("sleeper"), F["place"])),
    "news unheard": ("unwoken", "sleeper", lambda d: d.redis.hset(d.keys.promise("sleeper"), F["unseen"], "1 ")),
    "a lost child": ("gone", "parent~1", lambda d: d.redis.delete(d.keys.promise("parent~1"))),
    "a forgotten waiter": ("untold", "parent~2", lambda d: d.redis.hdel(d.keys.promise("named"), F["waiters"])),
    "a pending promise that expires": (
        "expiring",
        "sleeper",
        lambda d: d.redis.pexpire(d.keys.promise("sleeper"), 9_000_000),
    ),
    "a result kept for ever": ("kept", "done", lambda d: d.redis.persist(d.keys.promise("done"))),
    "a worker of long ago": ("stale", "gone/00000000", lambda d: d.redis.zadd(d.keys.workers, {"gone/00000000": 1})),
    "a waiter that does not wait": ("waiter", "named", add_waiter),
    "clients that were killed": ("client", "sleeper", add_clients),
    "a list of those who wait for nobody": (
        "waiters",
        "nobody",
        lambda d: d.redis.sadd(d.keys.waiters("nobody"), "p1 sleeper~1"),
    ),
    "a run that nobody closes": ("run", "sleeper", lambda d: d.redis.hset(d.keys.run("sleeper"), F["incarnation"], 1)),
    "a message beside who waits for it": (
        "unread",
        "reader~1",
        lambda d: mail(d, {"m0 x": "\nhere", "cx": "0 1", "n": "2 10 1 0 0"}),
    ),
    "a receive that nobody knows": ("unindexed", "reader~1", lambda d: index(d, "2\ty\n")),
    "a receive of another channel": ("index", "reader~1", lambda d: index(d, "1\tq\n2\ty\n")),
    "no receive that waits": ("index", "reader~9", lambda d: index(d, "9\tx\n1\tx\n2\ty\n")),
    "a lost timeout of a receive": ("untimed", "reader~2", lambda d: d.redis.zrem(d.keys.timers, "reader~2")),
    "a mailbox of nobody": ("mail", "nobody", lambda d: mail(d, {"n": "0 0 0 0 0"}, "nobody")),
    "a mailbox of what has ended": ("mail", "done", lambda d: mail(d, {"n": "1 1 0 0 0", "m0 x": "\na"}, "done")),
    "a mailbox that nobody reads": (
        "mail",
        "sleeper",
        lambda d: mail(d, {"n": "0 0 0 0 1", "x1 1 s~1": "s"}, "sleeper"),
    ),
    "a lost mailbox": ("mail", "reader", lambda d: d.redis.delete(f"{d.keys.tag}mail:reader")),
    "a mailbox that expires": (
        "expiring",
        "reader",
        lambda d: d.redis.pexpire(f"{d.keys.tag}mail:reader", 9_000_000),
    ),
    "a mailbox that miscounts": ("miscounted", "reader", lambda d: mail(d, {"n": "2 60 1 0 0"})),
    "a mailbox without its numbers": ("miscounted", "reader", lambda d: mail(d, {"n": "?"})),
    "a message that is not found": ("miscounted", "reader", lambda d: mail(d, {"cz": "1 2"})),
    "a message of no channel": ("miscounted", "reader", lambda d: mail(d, {"m7 q": "\na", "n": "2 7 1 0 0"})),
    "a channel without messages": ("miscounted", "reader", lambda d: mail(d, {"cq": "3 4"})),
    "a sender that nobody tells": ("untold", "reader", lambda d: mail(d, {"x1 1 s~1": "s", "n": "1 6 1 0 1"})),
    "a sender that is not counted": ("untold", "reader", lambda d: mail(d, {"x1 1 s~1": "s"})),
    "a family gone": ("closing", "nobody", lambda d: d.redis.zadd(d.keys.closing, {"nobody": 1})),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_break_is_found_by_name_and_mended(driver: Driver, name: str) -> None:
    kind, id, break_it = BREAKS[name]
    await healthy(driver)
    await break_it(driver)
    found = (await check(driver)).findings
    assert (kind, id) in [(finding.kind, finding.id) for finding in found]
    for finding in found:  # what it has left behind is told as well
        assert finding.id.startswith(id.partition("~")[0]) or finding.kind in ("timer", "entry"), found
    assert not any(finding.repaired for finding in found)
    assert all(finding.repairable for finding in found)
    repaired = await check(driver, repair=True)
    assert repaired.findings
    assert repaired.is_clean
    await check(driver, repair=True)  # a child that is gone leaves a timer that is met only now
    assert (await check(driver)).findings == []


async def test_what_is_queued_anew_runs_once_and_its_old_holder_is_fenced(driver: Driver) -> None:
    old = await driver.start("a")
    await driver.redis.xdel(driver.keys.queue("workers"), old.entry)
    assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["unqueued"]
    new = await driver.take()
    assert (new.id, new.epoch) == ("a", old.epoch + 1)
    await driver.commit(new, CommitAction.RESOLVE)
    assert (await check(driver)).is_clean


async def test_what_is_queued_anew_leaves_its_old_place(driver: Driver) -> None:
    await healthy(driver)
    await driver.redis.hdel(driver.keys.promise("later"), F["due"])
    await driver.redis.hset(driver.keys.promise("sleeper"), F["unseen"], "1 ")
    await driver.redis.xgroup_setid(driver.keys.queue("workers"), "workers", "$")
    await check(driver, repair=True)
    for id in ("later", "sleeper", "queued"):
        assert await driver.place(id) is Place.QUEUED


async def test_timers_that_are_lost_and_those_that_were_moved_are_told_apart(driver: Driver) -> None:
    await driver.suspended("a", TIMER, StartTimer(Number("2"), "", FAR))
    await driver.redis.zrem(driver.keys.timers, "a~1")
    await driver.redis.zadd(driver.keys.timers, {"a~2": 4e12})
    found = {finding.id: finding.text for finding in (await check(driver, repair=True)).findings}
    assert found == {
        "a~1": "is due some time, but has no timer",
        "a~2": "its timer has another time than its due time",
    }


async def test_entries_of_one_instant_are_delivered_in_their_order(driver: Driver) -> None:
    """And what another group has read is not delivered to ours."""
    ids = [f"a{number}" for number in range(10)]
    await asyncio.gather(*[driver.create(id) for id in ids])
    await driver.read(4)
    await driver.redis.xgroup_create(driver.keys.queue("workers"), "others", "$")
    await driver.redis.xgroup_create(driver.keys.queue("workers"), "all others", "$")
    assert (await check(driver)).findings == []
    for id in ids:
        await driver.control("force", id)


async def check_while(driver: Driver, change: Callable[[int], Awaitable[object]]) -> Report:
    """A check during which something changes before a script looks: for the first time, the second time, and so on."""
    plan, looks = fsck.fsck(driver.store.keyspaces), 0
    try:
        calls = next(plan)
        while True:
            if calls and isinstance(calls[0], BatchItem):
                looks += 1
                await change(looks)
            calls = plan.send(await driver.store.ask(calls))
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("part", [0.25, 0.5, 0.75, 0.9])
async def test_what_changes_while_it_is_looked_at_is_left_alone(driver: Driver, part: float) -> None:
    """What it begins to wait for may be where nobody looks any more."""
    lease = await driver.start("a")
    marks = [Mark(Number(str(number)), Kind.PATCH, "x") for number in range(1, 601)]
    await driver.commit(lease, CommitAction.CONTINUE, *marks)

    looks: list[int] = []  # how many pages there are is left to each server

    async def count(at: int) -> None:
        looks.append(at)

    await check_while(driver, count)

    async def suspend(at: int) -> None:
        if at == round(part * len(looks)):
            await driver.commit(lease, CommitAction.SUSPEND, StartPromise(Number("601"), "", None))

    assert (await check_while(driver, suspend)).findings == []
    assert await driver.place("a") is Place.SUSPENDED


_LISTED = [
    "a stray timer",
    "a name without a halt",
    "a worker of long ago",
    "a family gone",
    "a list of those who wait for nobody",
    "a run that nobody closes",
]
GOING: dict[str, Break] = {
    **{name: BREAKS[name][2] for name in _LISTED},
    "a promise": lambda d: d.create("p", kind=Kind.PROMISE),
    "an entry": lambda d: d.redis.xadd(d.keys.queue("workers"), {"i": "nobody", "e": 1}),
    "a schedule": lambda d: d.redis.hset(d.keys.schedule("nightly"), S["due"], "1"),
    "an inbox": lambda d: d.redis.xadd(d.keys.inbox("one"), {"o": ""}),
}


@pytest.mark.parametrize("name", GOING)
async def test_what_is_gone_when_it_is_looked_at_is_no_finding(driver: Driver, name: str) -> None:
    await GOING[name](driver)
    looks = list[int]()

    async def empty(look: int) -> None:
        looks.append(look)
        for key in await driver.redis.keys(f"{driver.keys.tag}*"):
            await driver.redis.delete(key)

    assert (await check_while(driver, empty)).findings == []
    assert looks


async def test_a_look_changes_nothing_and_needs_no_more_than_to_read(one_server: Server, namespace: str) -> None:
    driver = Driver(one_server.client(), namespace)
    async with driver.store.opened():
        await healthy(driver)
        await driver.redis.xgroup_setid(driver.keys.queue("workers"), "workers", "$")
        rules = ["+@all", "-@write", "-xinfo"]  # without the last it does not know what is delivered
        await driver.redis.acl_setuser("reader", enabled=True, nopass=True, keys=["*"], commands=rules, reset=True)
        reader = Driver(one_server.client(username="reader", password=""), namespace)
        async with reader.store.opened():
            assert (await check(reader)).findings == []
        await driver.redis.acl_deluser("reader")
        assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["undelivered"]


async def test_timers_that_nobody_waits_for_are_removed(driver: Driver) -> None:
    await healthy(driver)
    before = await driver.timers()
    strays = ["garbage", "x~", "~5", "gone~cron", "gone~timeout", "gone~1", "done~1", "later~retry~1"]
    strays += ["sleeper~timeout", "sleeper~start", "sleeper~retry", "sleeper~2", "sleeper~9"]
    await driver.redis.zadd(driver.keys.timers, dict.fromkeys(strays, 4e12))
    found = (await check(driver, repair=True)).findings
    assert sorted((finding.kind, finding.id) for finding in found) == sorted(("timer", stray) for stray in strays)
    assert await driver.timers() == before


@pytest.mark.leaves_keys("what only a newer version knows")
async def test_what_only_a_newer_version_knows_is_named_and_left(driver: Driver) -> None:
    await driver.suspended("sleeper", TIMER)
    await driver.redis.hset(driver.keys.promise("sleeper"), "2", "zp\t\t\tx\t\n")
    await driver.suspended("other", TIMER)
    await driver.redis.hset(driver.keys.promise("other"), F["place"], "n")
    await driver.redis.zadd(driver.keys.timers, {"x~later": 4e12, "other~start": 4e12})
    before = await driver.snapshot()
    report = await check(driver, repair=True)
    assert {(finding.kind, finding.id): finding.text for finding in report.findings} == {
        ("newer", "sleeper~2"): "is of kind z, which only a newer version knows",
        ("newer", "other"): "is in place n: only a newer version knows it",
        ("newer", "x~later"): "is a timer of kind later, which only a newer version knows",
    }
    assert not any(finding.repairable for finding in report.findings)
    assert await driver.snapshot() == before


async def test_entries_that_belong_to_no_queued_execution_leave_the_stream_and_its_group(driver: Driver) -> None:
    await healthy(driver)
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    for id, epoch in (("nobody", 1), ("queued", 1), ("queued", 7), ("done", 1), ("broken", 1)):
        await driver.redis.xadd(driver.keys.queue("workers"), {"i": id, "e": epoch})
    leases = await driver.read(10)
    await driver.redis.delete(driver.keys.promise("broken"))
    found = (await check(driver, repair=True)).findings
    assert [finding.kind for finding in found] == ["entry"] * 5
    [held] = [lease for lease in leases if lease.entry == (await driver.record("queued")).entry]
    assert await driver.pending(WORKER, but=held) == []
    assert await driver.queued() == ["queued"]


@pytest.mark.leaves_keys("what was quarantined")
async def test_of_what_is_listed_as_halted_each_is_told_what_it_is(driver: Driver) -> None:
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    await driver.redis.hset(driver.keys.schedule("odd"), S["aside"], "why")
    names = ["schedule:odd: why", "schedule:even: why", "timers:x: CORRUPT x", "broken", "nobody"]
    await driver.redis.zadd(driver.keys.halted, dict.fromkeys(names, 1))
    found = [finding for finding in (await check(driver, repair=True)).findings if finding.kind != "corrupt"]
    by_hand = "was quarantined: look at it, then `durasleep namespace discard` it"
    assert {finding.id: finding.text for finding in found} == {
        "schedule:odd: why": "cannot be read by its workers: use app.schedule() again, or app.unschedule()",
        "schedule:even: why": "is listed as quarantined, but is not",
        "timers:x: CORRUPT x": by_hand,
        "broken": by_hand,
        "nobody": "is listed as halted, but is not",
    }
    assert await driver.halted() == ["broken", "schedule:odd: why", "timers:x: CORRUPT x"]


async def test_what_should_expire_expires_again(driver: Driver) -> None:
    inbox = driver.keys.inbox("one")
    await driver.redis.xadd(inbox, {"o": ""})
    assert [(finding.kind, finding.id) for finding in (await check(driver, repair=True)).findings] == [("kept", inbox)]
    assert 0 < await driver.redis.pttl(inbox) <= 90_000


async def test_who_waits_for_what_is_gone_is_left_to_a_person(driver: Driver) -> None:
    await driver.suspended("parent", child("1", id="named"))
    await driver.redis.delete(driver.keys.promise("named"), driver.keys.queue("workers"))
    [finding] = (await check(driver, repair=True)).findings
    assert (finding.kind, finding.id, finding.repairable) == ("gone", "parent~1", False)
    await driver.control("force", "parent")


async def test_who_has_missed_the_ending_of_another_hears_of_it(driver: Driver) -> None:
    """Unless the firer is about to tell it."""
    await driver.suspended("parent", child("1", id="named"))
    lease = await driver.take()
    before = await driver.redis.hgetall(driver.keys.promise("parent"))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"result")
    await driver.redis.delete(driver.keys.promise("parent"), driver.keys.queue("workers"))
    await driver.redis.hset(driver.keys.promise("parent"), mapping=before)
    await driver.redis.zadd(driver.keys.closing, {"named": 1})
    assert (await check(driver)).findings == []
    await driver.redis.zrem(driver.keys.closing, "named")
    found = (await check(driver, repair=True)).findings
    assert [(finding.kind, finding.id) for finding in found] == [("untold", "parent~1")]
    assert (await driver.entry("parent", "1")).payload == b"result"


@pytest.mark.leaves_keys("a broken journal")
async def test_who_waits_for_something_broken_is_not_called_stuck(driver: Driver) -> None:
    for id, entry in (("a", "nonsense"), ("b", "tp\t\t\t\t\n")):
        await driver.suspended(id, TIMER)
        await driver.redis.hset(driver.keys.promise(id), "1", entry)
        await driver.redis.zrem(driver.keys.timers, f"{id}~1")
    found = (await check(driver, repair=True)).findings
    assert {(finding.kind, finding.id): finding.text for finding in found} == {
        ("corrupt", "a~1"): "is not a journal entry of ours",
        ("corrupt", "b~1"): "is a timer without a due time",
    }


async def test_a_long_sleeper_is_looked_at_to_its_end(driver: Driver) -> None:
    await driver.suspended("a", *[StartTimer(Number(str(number)), "", FAR) for number in range(1, 601)])
    assert (await check(driver)).findings == []
    await driver.redis.zrem(driver.keys.timers, "a~300")
    assert [finding.id for finding in (await check(driver, repair=True)).findings] == ["a~300"]
    await driver.control("force", "a")
    await driver.fire_all()


async def test_of_those_in_a_list_who_are_gone_executions_and_clients_are_told_apart(driver: Driver) -> None:
    await driver.suspended("parent", child("1", id="named"))
    promise, waiters = driver.keys.promise("named"), driver.keys.waiters("named")
    living = (await driver.redis.hget(promise, F["waiters"])).strip()
    await driver.redis.hset(promise, F["waiters"], "+")
    await driver.redis.sadd(waiters, living, "p1 gone~7", "i0")
    found = (await check(driver, repair=True)).findings
    assert {finding.kind: finding.text for finding in found} == {
        "waiter": "lists the waiter gone, which does not wait",
        "client": "lists 1 waiting clients that are gone",
    }
    assert await driver.redis.smembers(waiters) == {living}


async def test_a_kind_of_check_that_nobody_knows_is_refused(driver: Driver) -> None:
    to = command.route("fsck", driver.keys, ("",))
    with pytest.raises(UsageError, match="check nonsense"):
        await driver.store.send(BatchItem(to, to.script.item(what="nonsense", name="a", at=""), str))


async def test_a_parent_hears_of_a_child_whose_ending_it_missed(driver: Driver) -> None:
    await driver.suspended("parent", child("1"))
    lease = await driver.take()
    before = await driver.redis.hgetall(driver.keys.promise("parent"))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"result")
    await driver.redis.delete(driver.keys.promise("parent"))
    await driver.redis.hset(driver.keys.promise("parent"), mapping=before)  # as if it had never been told
    await driver.redis.delete(driver.keys.queue("workers"))
    found = (await check(driver, repair=True)).findings
    assert [(finding.kind, finding.id) for finding in found] == [("untold", "parent~1")]
    assert (await driver.entry("parent", "1")).payload == b"result"
    assert (await driver.record("parent")).place is Place.QUEUED


async def test_a_child_without_its_parent_is_ended(driver: Driver) -> None:
    await driver.suspended("parent", child("1"))
    await driver.redis.delete(driver.keys.promise("parent"))
    found = (await check(driver, repair=True)).findings
    assert [(finding.kind, finding.id) for finding in found] == [("orphan", "parent~1")]
    assert await driver.read() == []  # with its family gone it is not even kept
    assert (await check(driver)).is_clean


async def test_a_sleeper_that_waits_for_nothing_is_given_to_a_worker(driver: Driver) -> None:
    await driver.suspended("a", TIMER, Mark(Number("2"), Kind.PATCH, "x"))
    await driver.redis.hdel(driver.keys.promise("a"), "1")
    await driver.redis.zrem(driver.keys.timers, "a~1")
    assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["stuck"]
    assert (await driver.take()).id == "a"


async def test_what_was_misquoted_is_given_out_as_its_hash_says(driver: Driver) -> None:
    await driver.create("queued", args=b"the arguments")
    await misquote(driver, b"the", b"any")
    await check(driver, repair=True)
    [(entry, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert b"x" not in fields
    record = await driver.record((await driver.take()).id)
    assert (record.args, record.entry, record.epoch) == (b"the arguments", entry.decode(), 2)


async def test_an_entry_that_is_only_older_than_its_hash_is_left_alone(driver: Driver) -> None:
    """Arguments in parts, a journal that has grown meanwhile."""
    long = b"x" * 200
    await driver.suspended("a", StartTimer(Number("1"), "", PAST), StartPromise(Number("2"), "", None), args=long)
    await driver.fire()
    await driver.settle("a~2")
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert long in fields[b"x"]
    assert (await check(driver)).findings == []


async def test_an_entry_that_leads_nowhere_leaves_the_stream(driver: Driver) -> None:
    await driver.join()
    await driver.redis.xadd(driver.keys.queue("workers"), {"i": "nobody", "e": "1"})
    await driver.redis.xadd(driver.keys.queue("workers"), {"what": "is this"})
    assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["entry", "entry"]
    assert await driver.redis.xlen(driver.keys.queue("workers")) == 0


@pytest.mark.leaves_keys("they are not ours")
async def test_what_nobody_can_mend_is_left_to_a_person(driver: Driver) -> None:
    await driver.redis.set(driver.keys.promise("text"), "text")
    await driver.redis.set(f"{driver.keys.tag}surprise", "x")
    await driver.redis.zadd(driver.keys.halted, {"timers:x: CORRUPT x": 1})
    await driver.suspended("sleeper", TIMER)
    await driver.redis.hset(driver.keys.promise("sleeper"), "2", "nonsense")
    report = await check(driver, repair=True)
    assert {finding.kind for finding in report.findings} == {"corrupt", "unknown", "aside"}
    assert len(report.findings) == 4
    assert not report.is_clean
    assert not any(finding.repairable for finding in report.findings)


async def test_a_long_journal_is_looked_at_to_its_end(driver: Driver) -> None:
    lease, last = await driver.start("long"), None
    for start in range(1, 1001, 200):
        ops = [StepResult(Number(str(n)), "s", State.RESOLVED, b"x" * 100) for n in range(start, start + 200)]
        seen = (await driver.commit(lease, CommitAction.CONTINUE, *ops)).entries
        while seen:
            last = max(seen, key=lambda entry: entry.stamp)
            seen = (await driver.commit(lease, CommitAction.CONTINUE, seen=last)).entries
    lost = StartTimer(Number("1001"), "", FAR)
    await driver.commit(lease, CommitAction.SUSPEND, lost, seen=last)
    assert (await driver.record("long")).place is Place.SUSPENDED
    assert (await check(driver)).findings == []
    await driver.redis.zrem(driver.keys.timers, "long~1001")
    assert [finding.id for finding in (await check(driver)).findings] == ["long~1001"]
    await check(driver, repair=True)


async def test_many_checks_beside_what_moves_find_nothing(driver: Driver) -> None:
    done = asyncio.Event()

    async def move() -> None:
        for n in range(40):
            await driver.suspended(f"a-{n}", StartTimer(Number("1"), "", PAST), child("2"))
            await driver.fire()
            for lease in await driver.read(10):
                outcome = CommitAction.RESOLVE if "~" in lease.id else CommitAction.CONTINUE
                await driver.commit(lease, outcome)
                if "~" not in lease.id:
                    await driver.control("force", lease.id)
        done.set()

    moving = asyncio.create_task(move())
    checks = 0
    while not done.is_set() and not moving.done():
        assert (await check(driver)).findings == []
        checks += 1
    await moving
    assert checks > 3
