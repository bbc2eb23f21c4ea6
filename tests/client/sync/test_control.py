# Written by scripts/generate_sync.py from tests/client/test_control.py: change that one.
"""Executions are woken, rescheduled, canceled, halted, resumed or retried; and which of these is allowed when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Canceled, NotFound, UsageError
from durasleep.errors import InvalidDuration, NotAllowed
from harness.servers import Server
from tests.client.functions import Serving, wide
from tests.client.sync_side import Client, NewClient, attach, store_of, until
from tests.service.functions import double, failing, sleeping_workflow, waiting
from tests.service.workers import Effects


def test_the_verbs_take_the_id_of_what_sleeps(client: Client, serving: Serving) -> None:
    with serving():
        handles = {id: client.rpc(id, sleeping_workflow, 3600) for id in ("woken", "moved", "canceled", "stopped")}
        for id in handles:
            until(client, id, "suspended")
        assert client.wake("woken").word == "woken"
        assert handles["woken"].result(30) == "Slept for 3600 seconds"
        assert client.wake("woken").word == "already"

        at = datetime.now(UTC) + timedelta(hours=2)
        assert client.reschedule("moved", at).word == "rescheduled"
        [timer] = client.describe("moved").waiting_on
        assert abs((timer.due_ms or 0) - at.timestamp() * 1000) < 2
        assert client.reschedule("moved", 0.001).word == "rescheduled"
        assert handles["moved"].result(30) == "Slept for 3600 seconds"

        assert handles["canceled"].cancel() == "canceling"
        with pytest.raises(Canceled):
            handles["canceled"].result(30)
        assert client.cancel("canceled").word == "already"

        assert client.halt("stopped", "why").word == "halted"
        assert [one.reason for one in client.search(status="halted")] == ["why"]
        with pytest.raises(NotAllowed):
            client.wake("stopped")
        with pytest.raises(NotAllowed):
            client.reschedule("stopped", 5)
        assert client.resume("stopped").word == "resumed"
        assert client.cancel("stopped", force=True).word == "canceled"
        with pytest.raises(NotFound):
            client.wake("nobody")
        with pytest.raises(InvalidDuration, match="no time zone"):
            client.reschedule("stopped", datetime(2030, 1, 1))  # noqa: DTZ001 - the point


def test_only_a_client_that_says_who_it_is_writes_into_the_audit(new_client: NewClient) -> None:
    quiet, ada = new_client(), new_client(by="ada")
    handle = quiet.rpc("a", double, 5, delay="1h")
    quiet.rpc("b", double, 5, delay="1h")
    assert handle.cancel() == "canceled while delayed"
    assert quiet.audit() == []
    assert ada.get("b").cancel(force=True) == "canceled"
    ada.release_clock()
    assert [(one.by, one.verb, one.id) for one in quiet.audit(since="1h")] == [
        ("ada", "release-clock", ""),
        ("ada", "force", "b"),
    ]
    assert quiet.audit(since=datetime.now(UTC) + timedelta(hours=1)) == []
    for wrong in (0, 10_001):
        with pytest.raises(UsageError):
            quiet.audit(limit=wrong)
    with pytest.raises(UsageError):
        new_client(by="")


def test_a_group_is_paused_and_an_execution_forked(new_client: NewClient, serving: Serving) -> None:
    client = new_client(by="ada")
    with serving():
        assert client.rpc("a", sleeping_workflow, 0.001).result(30) == "Slept for 0.001 seconds"
        fork = client.fork("a", "b", before=1)
        assert (fork.id, fork.disposition) == ("b", "created")
        assert fork.result(30) == "Slept for 0.001 seconds"
        assert client.fork("a", "b", before=1).disposition == "attached"
    assert client.pause_group("idle")
    [group] = [group for group in client.groups() if group.name == "idle"]
    assert (group.paused_by, group.queued, group.workers) == ("ada", 0, [])
    assert client.resume_group("idle")
    assert not client.resume_group("idle")
    client.promises.create("p")
    assert client.promises.resolve("p", 1)
    assert client.promises.resolve("p", 1)
    told = [(one.verb, one.id, one.word) for one in client.audit()]
    assert told == [
        ("settle", "p", "resolved"),
        ("settle", "p", "resolved"),
        ("resume-group", "idle", ""),
        ("pause-group", "idle", ""),
        ("fork", "b", "of a before 1"),
    ]


def test_of_several_timers_one_has_to_be_named(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        client.rpc("wide", wide, effects.path)
        client.rpc("approval", waiting)
        until(client, "wide", "suspended")
        until(client, "approval", "suspended")
        with pytest.raises(NotAllowed, match=r"wide waits for 2 timers, name one: wide~2 \(short\), wide~3 \(long\)"):
            client.wake("wide")
        with pytest.raises(NotAllowed, match="approval waits for no timer"):
            client.reschedule("approval", 5)
        assert client.wake("wide~2").word == "woken"
        until(client, "wide", "suspended")
        assert client.wake("wide").word == "woken"
        for id in ("wide", "beside", "approval"):
            client.cancel(id, force=True)


def test_what_has_failed_is_tried_again(client: Client, serving: Serving) -> None:
    with serving():
        handle = client.rpc("fails", failing, "no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            handle.result(30)
        assert client.retry("fails").word == "retrying"
        with pytest.raises(ValueError, match="no such luck"):
            client.get("fails").result(30)
        slept = client.rpc("sleeps", sleeping_workflow, 0.1, delay=3600)
        assert slept.cancel(force=True) == "canceled"
        attach([slept])  # it gets the cancel
        with pytest.raises(Canceled):
            client.get("sleeps").result(30)
        assert client.retry("sleeps").word == "retrying"
        client.wake("sleeps")
        assert client.get("sleeps").result(30) == "Slept for 0.1 seconds"
        assert client.rpc("fine", double, 1).result(30) == 2
        with pytest.raises(NotAllowed):
            client.retry("fine")


@pytest.mark.leaves_keys("what nobody but a person can put right")
@pytest.mark.usefixtures("in_one_partition")
def test_what_was_quarantined_is_noted_until_it_is_removed(client: Client, real_server: Server) -> None:
    keys = store_of(client).keyspaces[-1]
    redis: Any = real_server.sync_client()
    redis.zadd(keys.halted, {"timers:broken~1: CORRUPT due time": 1})
    client.rpc("fine", double, 1)
    found = client.search()
    assert ([one.id for one in found], len(found.notes)) == (["fine"], 1)
    assert "quarantined: timers:broken~1: CORRUPT due time" in found.notes[0]
    assert [one.id for one in client.fsck().findings if "broken" in one.id + one.text]
    assert client.discard_quarantined("timers:broken~1")
    assert not client.discard_quarantined("timers:broken~1")
    assert client.search().notes == []
    real_server.flush()


def test_a_server_and_what_waits_on_it_are_diagnosed(client: Client) -> None:
    client.rpc("lonely", double, 1, target="gpu")
    said = client.diagnose()
    assert any("gpu" in f"{one}" for one in said), said
    client.cancel("lonely", force=True)
