"""What becomes of a promise that gets to another partition: who it waits for, who waits for it, and its timers."""

from __future__ import annotations

import pytest

from durasleep.errors import CorruptData, InvalidId, NewerVersion
from durasleep.model import Place, State
from durasleep.protocol import adoption
from durasleep.protocol.adoption import Arriving, Leaving
from durasleep.protocol.keys import PLACE, STATE, F
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.moving import Page

THERE = Keyspaces("n", 8)
ONE = Keyspaces("n", 1)
HERE = THERE.of("a").partition
FAR = next(f"b{n}" for n in range(100) if THERE.of(f"b{n}").partition != HERE)
NEAR = next(f"b{n}" for n in range(100) if THERE.of(f"b{n}").partition == HERE)
SOME = THERE.of(FAR).partition


def leaving(id: str = "a", **fields: str) -> Leaving:
    """A promise with these fields; entries are named n1, n2, ..."""
    named = {F.get(name, name.removeprefix("n")).encode(): value.encode() for name, value in fields.items()}
    known = {F["incarnation"].encode(): b"5", F["func"].encode(): b"f"} | named
    page = Page(-1, b"", False, b"0", list(known.items()))
    one = Leaving(id, page.fields, page)
    one.check(ONE)
    return one


def arrive(one: Leaving, there: Keyspaces = THERE, *missing: str) -> Arriving:
    return adoption.arrive(one, there, set(missing))


def entry(arriving: Arriving, number: str) -> bytes:
    return dict(arriving.fields)[number.encode()]


def waiters(arriving: Arriving) -> bytes | None:
    return dict(arriving.fields).get(F["waiters"].encode())


def test_a_pair_that_stays_together_is_not_changed() -> None:
    line = f"cp\t\t\tf\t{NEAR}\n"
    one = leaving(n1=line)
    assert adoption.parted(one, THERE) == []
    assert entry(arrive(one), "1") == line.encode()
    assert arrive(one).timers == []
    awaited = leaving(waiters=f"p7 {NEAR}~2\n")
    assert waiters(arrive(awaited)) == f"p7 {NEAR}~2\n".encode()


def test_a_pair_that_is_parted_asks_and_tells() -> None:
    one = leaving(n1=f"cp\t12\t\tf\t{FAR}\n")
    assert adoption.parted(one, THERE) == [FAR]
    arrived = arrive(one)
    assert entry(arrived, "1") == f"cp\t12\t\tf\t{FAR}\n{SOME}\tworkers\t\t\t\n".encode()
    assert arrived.timers == [("a~1~ask", 0)]
    awaited = leaving(waiters=f"p7 {FAR}~2\np8 {NEAR}~2.1\n")
    assert waiters(arrive(awaited)) == f"x{SOME} 7 {FAR}~2\np8 {NEAR}~2.1\n".encode()


def test_what_does_not_exist_is_not_begun_by_who_waits_for_it() -> None:
    line = f"cp\t\t\tf\t{FAR}\n"
    assert entry(arrive(leaving(n1=line), THERE, FAR), "1") == line.encode()


def test_what_asks_another_partition_gets_its_new_number() -> None:
    for kind in ("c", "d"):
        one = leaving(n1=f"{kind}p\t\t\tf\t{FAR}\n99\tgpu\t=5\t\t60\nargs\twith\ntabs")
        assert adoption.parted(one, THERE) == []
        for there, number in ((THERE, SOME), (ONE, 0)):
            arrived = arrive(one, there)
            assert entry(arrived, "1") == f"{kind}p\t\t\tf\t{FAR}\n{number}\tgpu\t=5\t\t60\nargs\twith\ntabs".encode()
            assert arrived.timers == [("a~1~ask", 0)]
    awaited = leaving(waiters=f"x99 7 {FAR}~2\nx3 8 {NEAR}~1\n")
    assert waiters(arrive(awaited)) == f"x{SOME} 7 {FAR}~2\nx{HERE} 8 {NEAR}~1\n".encode()
    assert waiters(arrive(awaited, ONE)) == f"x0 7 {FAR}~2\nx0 8 {NEAR}~1\n".encode()


def test_what_has_ended_tells_other_partitions_only() -> None:
    ended = {"state": STATE[State.RESOLVED], "n1": f"tp\t\t{10**12}\t\t\n"}
    assert arrive(leaving(**ended, waiters=f"x99 7 {FAR}~2\n")).timers == [("a~tell", 0)]
    assert arrive(leaving(**ended, waiters=f"p7 {NEAR}~2\n")).timers == []
    assert arrive(leaving(**ended)).timers == []


def test_clients_have_to_wait_again() -> None:
    assert waiters(arrive(leaving(waiters="i1234\n"))) is None
    assert waiters(arrive(leaving(waiters=f"i1234\np7 {NEAR}~2\ni99\n"))) == f"p7 {NEAR}~2\n".encode()


def test_many_waiters_stay_in_their_set() -> None:
    one = leaving(waiters="+")
    assert one.has_set
    one.waiters += [b"i1234", f"p7 {FAR}~2".encode(), f"p7 {NEAR}~2".encode()]
    arrived = arrive(one)
    assert waiters(arrived) == b"+"
    assert arrived.waiters == [f"x{SOME} 7 {FAR}~2".encode(), f"p7 {NEAR}~2".encode()]
    nobody = leaving(waiters="+")
    assert waiters(arrive(nobody)) is None


def test_timers_are_those_of_its_entries_and_of_where_it_is() -> None:
    entries = {
        "n1": "tp\t\t1000\t\t\n",
        "n2": "pp\t\t2000\tapproval\t\n",
        "n3": "pp\t\t\t\t\n",
        "n4": "tr\t900\t12\t\t\n",
        "n2.1": "tp\t\t3000\t\t\n",
    }
    asleep = {"place": PLACE[Place.SUSPENDED], "deadline": "7000"}
    assert arrive(leaving(**asleep, **entries)).timers == [
        ("a~timeout", 7000),
        ("a~1", 1000),
        ("a~2", 2000),
        ("a~2.1", 3000),
    ]
    delayed = {"place": PLACE[Place.DELAYED], "due": "4000"}
    assert arrive(leaving(**delayed)).timers == [("a~start", 4000)]
    assert arrive(leaving(**delayed, reason="")).timers == [("a~retry", 4000)]
    assert arrive(leaving(place=PLACE[Place.HALTED], due="4000")).timers == []


def test_what_only_the_old_namespace_needs_stays_behind() -> None:
    arrived = dict(arrive(leaving(place=PLACE[Place.QUEUED], entry="12-0", cursor="4", epoch="3")).fields)
    assert arrived.keys() == {F[name].encode() for name in ("incarnation", "func", "place", "epoch")}


def test_what_has_not_begun_may_be_dropped_for_the_same_call() -> None:
    assert not leaving(place=PLACE[Place.QUEUED], epoch="1").has_begun
    assert not leaving(place=PLACE[Place.DELAYED]).has_begun
    assert leaving(place=PLACE[Place.QUEUED], epoch="2").has_begun
    assert leaving(n1="sr\t5\t\tf\t\n").has_begun
    assert leaving(state=STATE[State.RESOLVED]).has_begun


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"incarnation": "nonsense"}, CorruptData),
        ({"n1": "nonsense"}, CorruptData),
        ({"n1": "Cp\t\t\tf\t\n"}, CorruptData),
        ({"n1": "wp\t\t\tf\t\n"}, NewerVersion),
        ({"n1": "cw\t\t\tf\t\n"}, NewerVersion),
        ({"place": "w"}, NewerVersion),
        ({"state": "w"}, NewerVersion),
        ({"kind": "w"}, NewerVersion),
        ({"waiters": "w5 b~1\n"}, NewerVersion),
    ],
)
def test_what_it_cannot_read_is_refused(fields: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        leaving(**fields)


def test_an_id_without_its_brace_is_refused_where_it_needs_one() -> None:
    one = leaving("{a")
    with pytest.raises(InvalidId):
        one.check(THERE)


def test_a_schedule_hears_of_its_execution_wherever_the_two_are() -> None:
    assert waiters(arrive(leaving(waiters=f"s{NEAR}\n"))) == f"s{NEAR}\n".encode()
    assert waiters(arrive(leaving(waiters=f"s{FAR}\n"))) == f"x{SOME} 0 {FAR}~cron\n".encode()
    assert waiters(arrive(leaving(waiters=f"x3 0 {FAR}~cron\n"))) == f"x{SOME} 0 {FAR}~cron\n".encode()
    together = waiters(arrive(leaving(waiters=f"x3 0 {NEAR}~cron\n")))
    assert together == f"x{HERE} 0 {NEAR}~cron\n".encode(), "this works inside one partition, too"
