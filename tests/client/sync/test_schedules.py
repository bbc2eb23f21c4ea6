# Written by scripts/generate_sync.py from tests/client/test_schedules.py: change that one.
"""Cron schedules, as a client adds and removes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from durasleep import NotFound, UsageError
from durasleep.protocol import schedules
from durasleep.protocol.keys import S
from durasleep.protocol.schedules import Schedule
from harness.servers import Server
from tests.client.functions import Serving
from tests.client.sync_side import Client, NewClient, eventually, store_of
from tests.service.functions import double, note
from tests.service.workers import Effects


@pytest.mark.usefixtures("in_one_partition")
def test_a_schedule_is_replaced_by_name_and_refused_if_it_makes_no_sense(
    client: Client, effects: Effects, real_server: Server
) -> None:
    redis: Any = real_server.sync_client()
    keys = store_of(client).keyspaces[-1]
    first = client.schedule("nightly", "0 3 * * *", note, effects.path, "night", zone="Europe/Berlin")
    assert first > datetime.now(UTC)
    second = client.schedule("nightly", "0 4 * * *", note, effects.path, "night", zone="Europe/Berlin")
    assert redis.zrange(keys.timers, 0, -1, withscores=True) == [(b"nightly~cron", second.timestamp() * 1000)]
    for line, zone, named in (("every day", "UTC", "every day"), ("0 3 * * *", "Mars/Base", "Mars/Base")):
        with pytest.raises(UsageError, match=named):
            client.schedule("nightly", line, note, effects.path, "night", zone=zone)
    assert redis.zcard(keys.timers) == 1
    assert client.unschedule("nightly")
    assert not client.unschedule("nightly")
    assert redis.zcard(keys.timers) == 0


@pytest.mark.usefixtures("in_one_partition")
def test_a_deploy_that_says_the_same_schedule_again_loses_no_overdue_time(
    client: Client, serving: Serving, effects: Effects
) -> None:
    """No worker ran when it was due; the application starts, sends its schedules, and only then serves."""
    store = store_of(client)
    keys = store.keyspaces[-1]
    due = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    line = f"{due.minute} * * * *"
    payload = client.codec.encode_args((effects.path, "before"), {}, "note")
    overdue = Schedule("hourly", line, "UTC", "note", "workers", payload, round(due.timestamp() * 1000))
    store.call(schedules.put_schedule(keys, overdue))
    for _ in range(2):
        assert client.schedule("hourly", line, note, effects.path, "after") == due
    with serving():
        eventually(effects.lines, "the time that was missed to be made up for")
    assert effects.lines() == ["after"]
    for changed, zone in ((line, "Etc/GMT+5"), ("7 7 7 7 *", "UTC")):  # another line has another time
        assert client.schedule("hourly", changed, note, effects.path, "after", zone=zone) > datetime.now(UTC)


@pytest.mark.usefixtures("in_one_partition")
def test_a_schedule_has_the_target_and_the_retention_it_is_given(client: Client, new_client: NewClient) -> None:
    line = "0 0 1 1 *"
    new_client(group="others").schedule("group", line, double, 1)
    client.schedule("target", line, double, 1, target="gpu")
    client.options(retention="2h", target="gpu").schedule("options", line, double, 1, zone="Europe/Berlin")
    store = store_of(client)
    for name, queue, zone, retention_ms in (
        ("group", "others", "UTC", None),
        ("target", "gpu", "UTC", None),
        ("options", "gpu", "Europe/Berlin", 7_200_000),
    ):
        schedule = store.call(schedules.read_schedule(store.keyspaces[-1], name))
        assert schedule
        assert (schedule.queue, schedule.zone, schedule.retention_ms) == (queue, zone, retention_ms)
    with pytest.raises(UsageError, match="target and retention"):
        client.options(timeout=5).schedule("x", line, double, 1)


FAR = "0 0 1 1 *"


def test_a_schedule_is_put_shown_and_removed(client: Client) -> None:
    made = client.schedules.put(
        "report",
        double,
        cron=["0 3 * * *", "@hourly"],
        zone="Europe/Berlin",
        args=[4],
        start=datetime(2020, 1, 1, tzinfo=UTC),
        end=datetime(2990, 1, 1, tzinfo=UTC),
        jitter="10s",
        overlap="queue_all",
        catch_up="all",
        window="2d",
        note="for Ada",
        remaining=4,
        target="gpu",
        retention="1h",
    )
    assert (made.cron, made.every_ms, made.zone) == (["0 3 * * *", "0 * * * *"], None, "Europe/Berlin")
    assert (made.function, made.queue, made.retention_ms) == ("double", "gpu", 3_600_000)
    assert (made.overlap, made.catch_up, made.window_ms) == ("queue_all", "all", 2 * 86_400_000)
    assert (made.start_ms, made.jitter_ms, made.note) == (1_577_836_800_000, 10_000, "for Ada")
    assert (made.remaining, made.paused_at_ms, made.running, made.waiting) == (4, None, None, [])
    assert len(made.next) == 4, "no more are left"
    assert made.next == sorted(made.next)
    assert made.next[0] > datetime.now(UTC)
    assert client.schedules.get("report") == made
    assert client.schedules.delete("report")
    assert not client.schedules.delete("report")
    with pytest.raises(NotFound, match="there is no schedule report"):
        client.schedules.get("report")


def test_by_default_times_do_not_overlap_and_the_last_missed_one_is_made_up_for(client: Client) -> None:
    made = client.schedules.put("plain", "double", every=timedelta(hours=1))
    assert (made.overlap, made.catch_up, made.window_ms) == ("skip", "last", 365 * 86_400_000)
    assert (made.cron, made.every_ms, made.zone, made.remaining) == ([], 3_600_000, "UTC", None)
    assert [at.minute for at in made.next] == [0] * 5
    client.schedules.delete("plain")
    client.schedule("plain", FAR, "double")
    short = client.schedules.get("plain")
    assert (short.overlap, short.catch_up, short.window_ms) == ("allow", "first", None)
    client.schedules.delete("plain")


def test_schedules_are_listed_by_name_and_those_that_only_newer_versions_read_are_named(
    client: Client, real_server: Server
) -> None:
    names = [f"s{number}" for number in range(7)]
    for name in reversed(names):
        client.schedules.put(name, "double", every="1h", note=name)
    client.schedule("of-all-versions", FAR, "double")
    listed = client.schedules.ls()
    assert [one.name for one in listed] == ["of-all-versions", *names]
    assert [len(one.next) for one in listed] == [1] * 8
    assert (listed.is_all, listed.notes) == (True, [])
    few = client.schedules.ls(3)
    assert ([one.name for one in few], few.is_all) == (["of-all-versions", "s0", "s1"], False)
    for limit in (0, 10_001):
        with pytest.raises(UsageError, match=f"limit {limit}: use 1 to 10,000"):
            client.schedules.ls(limit)
    redis: Any = real_server.sync_client()
    redis.hset(store_of(client).keys("s3").schedule("s3"), S["overlap"], "sometimes")
    listed = client.schedules.ls()
    assert len(listed) == 7
    [note] = listed.notes
    assert note.startswith("schedule s3 cannot be read: only a newer version")
    for name in ("of-all-versions", *names):
        client.schedules.delete(name)
    assert client.schedules.ls() == []


def test_a_paused_schedule_stays_so_when_it_is_put_again(client: Client) -> None:
    client.schedules.put("p", "double", every="1h")
    paused = client.schedules.pause("p", "broken")
    assert (paused.paused_at_ms is not None, paused.note) == (True, "broken")
    assert client.schedules.put("p", "double", every="1h").paused_at_ms == paused.paused_at_ms
    resumed = client.schedules.resume("p")
    assert resumed.paused_at_ms is None
    assert client.schedules.put("p", "double", every="1h", paused=True).paused_at_ms
    assert client.schedules.put("p", "double", every="1h", paused=False).paused_at_ms is None
    client.schedules.delete("p")
    for verb in (client.schedules.pause, client.schedules.resume, client.schedules.trigger):
        with pytest.raises(NotFound, match="there is no schedule p"):
            verb("p")


def test_one_is_started_by_hand_whatever_the_schedule_does(client: Client, serving: Serving) -> None:
    client.schedules.put("hand", double, cron=FAR, args=[4], zone="Europe/Berlin", paused=True)
    before = client.schedules.get("hand")
    id = client.schedules.trigger("hand")
    assert id.startswith("hand@2")
    with serving():
        assert client.get(id).result(timeout=30) == 8
    assert client.schedules.get("hand") == before
    client.schedules.delete("hand")


@pytest.mark.parametrize("overlap", ["skip", "allow"])
def test_times_of_the_past_are_started_each_once(client: Client, serving: Serving, overlap: Any) -> None:
    client.schedules.put("back", double, cron="0 0 * * *", args=[4], overlap=overlap, end=datetime.now(UTC))
    first, last = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 3, tzinfo=UTC)
    ids = [f"back@2024-05-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    for _ in range(2):
        assert client.schedules.backfill("back", first, last) == ids
        assert client.schedules.get("back").waiting == ids
    assert client.schedules.backfill("back", last + timedelta(hours=1), last + timedelta(hours=2)) == []
    with serving():
        assert [client.get(id).result(timeout=30) for id in ids if exists(client, id)] == [8, 8, 8]
    client.schedules.delete("back")


def exists(client: Client, id: str) -> bool:
    """Whether it was started by now."""
    return eventually(lambda: is_there(client, id), f"{id} to be started")


def is_there(client: Client, id: str) -> bool:
    try:
        client.describe(id)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a schedule needs either cron lines or every="),
        ({"cron": FAR, "every": 5}, "a schedule needs either cron lines or every="),
        ({"cron": []}, "a schedule needs either cron lines or every="),
        ({"cron": [FAR] * 9}, "9 cron lines: a schedule has at most 8"),
        ({"cron": [5]}, "5 is not a cron line: give a text"),
        ({"cron": "@sometimes"}, "'@sometimes' is not a cron line"),
        ({"cron": FAR, "zone": "Mars/Base"}, "'Mars/Base' is not a time zone"),
        ({"every": 0}, "is too short: it is at least a second"),
        ({"every": "0.5s"}, "every=0.5 s is too short: it is at least a second"),
        ({"every": "often"}, "every 'often' is not a duration"),
        ({"every": -5}, "it must be finite and not negative"),
        ({"cron": FAR, "start": datetime(2024, 1, 1)}, "has no time zone"),  # noqa: DTZ001
        ({"cron": FAR, "end": "tomorrow"}, "'tomorrow' is not an instant"),
        (
            {"cron": FAR, "start": datetime(2024, 1, 2, tzinfo=UTC), "end": datetime(2024, 1, 1, tzinfo=UTC)},
            "the end of a schedule comes after its start",
        ),
        ({"cron": FAR, "jitter": "2d"}, "jitter=172800 s is too long: it is at most a day"),
        ({"cron": FAR, "overlap": "maybe"}, "overlap 'maybe': use one of skip, queue, queue_all, allow, cancel"),
        ({"cron": FAR, "catch_up": "maybe"}, "catch_up 'maybe': use one of last, first, none, all"),
        ({"cron": FAR, "window": 5}, "window 5 is too short: it is at least ten seconds"),
        ({"cron": FAR, "note": "x" * 1001}, "a note of 1001 characters is too long: it has at most 1000"),
        ({"cron": FAR, "remaining": 0}, "remaining 0: give a whole number from 1 to 1,000,000,000"),
        ({"cron": FAR, "remaining": True}, "remaining True: give a whole number"),
        ({"cron": FAR, "paused": "no"}, "paused 'no': say True or False"),
        ({"cron": FAR, "target": "poll://x"}, "target 'poll://x': write poll://any@<group>"),
        ({"cron": FAR, "args": ["four"]}, "number"),
    ],
)
def test_an_option_that_cannot_be_used_is_said_and_nothing_is_stored(
    client: Client, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        client.schedules.put("bad", double, **cast("Any", {"args": [1]} | options))
    assert said in str(caught.value)
    assert client.schedules.ls() == []


def test_bad_names_and_times_are_said(client: Client) -> None:
    with pytest.raises(UsageError, match="schedule name 'a b'"):
        client.schedules.put("a b", double, cron=FAR, args=[1])
    with pytest.raises(TypeError, match="nonsense"):
        client.schedules.put("a", double, cron=FAR, args=[1], nonsense=5)  # type: ignore[call-arg]
    client.schedules.put("a", double, cron="* * * * *", args=[1])
    now = datetime.now(UTC)
    with pytest.raises(UsageError, match="a backfill ends after its start"):
        client.schedules.backfill("a", now, now - timedelta(hours=1))
    with pytest.raises(UsageError, match="more than 100 times in there"):
        client.schedules.backfill("a", now - timedelta(hours=2), now)
    with pytest.raises(UsageError, match="a note of 1001 characters"):
        client.schedules.pause("a", "x" * 1001)
    client.schedules.delete("a")
