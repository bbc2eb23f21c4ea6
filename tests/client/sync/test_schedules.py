# Written by scripts/generate_sync.py from tests/client/test_schedules.py: change that one.
"""Cron schedules, as a client adds and removes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import UsageError
from durasleep.protocol import schedules
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
