"""Mails move from BullMQ to durasleep, step by step: docs/coming-from/moving-from-bullmq.md.

Workers of both are real processes, on one real Redis.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest
from bullmq import Queue

from durasleep.sync import Client
from harness.servers import MakeServer
from tests.cli.terminal import ROOT, wait_for
from tests.examples.programs import Place, Program, commands_of, wrong_diffs

STEPS = "examples.moving.bullmq"
DONE = "mails:done"
MOVED = {"remind": 1, "newsletter": 2, "collect-orders": 3, "collect-visits": 3, "report-orders-visits": 3}
"""What is done for somebody, and the step from which on it begins in durasleep."""
WHATS = tuple(MOVED)
LAST = 3
PAGE = "docs/coming-from/moving-from-bullmq.md"
BULL_WORKER = f"python -m {STEPS}.step_{{}} work"
WORKER = f"durasleep worker {STEPS}.step_{{}}:app"
SEND = f"python -m {STEPS}.step_{{}}"
CARRY = f"python -m {STEPS}.carry"
COMMANDS = (BULL_WORKER, WORKER, SEND, CARRY)

pytestmark = pytest.mark.timeout(180)  # each program is a Python that starts, which takes long on a busy machine


@pytest.fixture
def mails(make_server: MakeServer, tmp_path: Path) -> Iterator[Place]:
    server = make_server(persist=False)
    with Place(server.url, tmp_path, REMIND_AFTER_S="1.5", DIGEST_EVERY_S="1") as place:
        yield place


def bull_worker(mails: Place, step: int) -> Program:
    return mails.start(BULL_WORKER.format(step))


def worker(mails: Place, step: int) -> Program:
    return mails.start(WORKER.format(step))


def send(mails: Place, step: int, *who: str) -> None:
    mails.run(" ".join((SEND.format(step), *who)))


def delayed(mails: Place) -> int:
    return mails.store.zcard("bull:mails:delayed")


def test_each_step_moves_its_part_and_nothing_is_lost_or_done_twice_through_the_whole_move(
    mails: Place, subtests: pytest.Subtests
) -> None:
    people: dict[str, int] = {}
    bull: set[int] = set()
    running: list[Program] = []
    for step in range(LAST + 1):
        starting: list[Program] = []
        if step < LAST:
            starting.append(bull_worker(mails, step))
            bull.add(starting[-1].pid)
        if step == 2:  # its worker of durasleep begins a schedule
            starting[-1].until("works")
            for program in running:
                if program.pid in bull:
                    program.stop()
        starting += [worker(mails, step)] if step >= 1 else []
        send(mails, step, who := f"ada-{step}")
        people[who] = step
        for program in running:
            program.stop()
        running = starting
        if step == LAST - 1:
            wait_for(lambda: not left(mails), "BullMQ to be drained")
    mails.once(DONE, WHATS, tuple(people))
    where = {(act.what, people[act.whom]): act.pid in bull for act in mails.acts(DONE) if act.whom in people}
    for step in range(LAST + 1):
        with subtests.test(step=step):
            assert {what: where[what, step] for what in MOVED} == {what: step < since for what, since in MOVED.items()}
    assert {act.pid in bull for act in mails.acts(DONE) if act.what == "digest"} == {True, False}


def left(mails: Place) -> int:
    """How many jobs BullMQ still has to do."""
    sizes = [mails.store.zcard(f"bull:mails:{name}") for name in ("delayed", "prioritized", "waiting-children")]
    return sum(sizes) + sum(mails.store.llen(f"bull:mails:{name}") for name in ("wait", "active"))


def test_a_carried_reminder_keeps_its_time_and_its_id(mails: Place) -> None:
    mails.environment["REMIND_AFTER_S"] = "3600"
    send(mails, 0, "ada", "bob")
    send(mails, 1, "bob")
    began_s = time.time()
    assert mails.run(CARRY) == "carried over: 2\n"
    assert mails.run(CARRY) == "carried over: 0\n"
    assert not mails.store.exists("bull:mails:remind-ada", "bull:mails:remind-bob")
    send(mails, 1, "ada")
    with Client(mails.url, namespace="mails") as client:
        assert all(abs(start.due_at_ms / 1000 - began_s - 3600) < 60 for start in client.timers())
        waiting = client.search(status="delayed")
    assert sorted(one.id for one in waiting) == ["remind-ada", "remind-bob"]  # the same id is one reminder


def test_a_carry_that_is_killed_is_run_again_and_carries_each_reminder_once(mails: Place) -> None:
    """Workers of both run meanwhile, and the time of some reminders comes while they are carried."""
    worker(mails, 1).until("is ready")
    bull_worker(mails, 1).until("works")
    soon = {f"s{number}": 1000 + 50 * number for number in range(30)}
    later = {f"l{number}": 3_600_000 for number in range(300)}
    mails.store.mset({f"mails:tries:{who}": 1 for who in soon})  # the mail server is not busy
    asyncio.run(add(mails.url, soon | later))
    carrying = mails.start(CARRY)
    wait_for(lambda: delayed(mails) < 250 or carrying.has_ended, "some to be carried")
    carrying.kill()
    halves = delayed(mails)
    mails.run(CARRY)
    assert 0 < halves < 300
    with Client(mails.url, namespace="mails") as client:
        waiting = client.search(status="delayed", limit=1000)
    assert sorted(one.id for one in waiting if one.id.startswith("remind-l")) == sorted(
        f"remind-{who}" for who in later
    )
    assert not mails.store.exists(*(f"bull:mails:remind-{who}" for who in later))
    mails.once(DONE, ["remind"], tuple(soon))
    mails.run(CARRY)
    assert mails.counts(DONE, ["remind"]).total() == len(soon)


async def add(url: str, delays_ms: dict[str, int]) -> None:
    """Delayed reminders in BullMQ."""
    queue = Queue("mails", {"connection": url})
    await queue.addBulk(
        [
            {"name": "remind", "data": {"who": who}, "opts": {"jobId": f"remind-{who}", "delay": delay, "attempts": 3}}
            for who, delay in delays_ms.items()
        ]
    )
    await queue.close()


def test_the_page_has_only_commands_that_are_run_here_and_shows_what_the_files_have() -> None:
    known = {command.format("N") for command in COMMANDS}
    of_others = "python -m pytest tests/examples/test_moving_from_bullmq.py"
    written = {re.sub(r" (?:ada bob|eve|joe)$", "", command) for command in commands_of(PAGE)}
    assert written - known == {of_others}
    steps = ROOT / "examples/moving/bullmq"
    assert wrong_diffs(PAGE, steps) == []
    [heart] = re.findall(r"```text\n(.*?)```", (ROOT / PAGE).read_text(encoding="utf-8"), re.DOTALL)
    assert indent(heart, " " * 12) in (steps / "carry.py").read_text(encoding="utf-8")
