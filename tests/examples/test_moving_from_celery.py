"""A shop moves from Celery to durasleep, step by step: docs/coming-from/moving-from-celery.md.

Workers of both are real processes, on one real Redis. Each test of a step begins with what the step before has left in
Celery's queues.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from durasleep import Durasleep, NotFound
from durasleep.sync import Client
from examples.moving.celery.drained import left
from examples.moving.celery.moved import moved
from harness.servers import MakeServer
from tests.cli.terminal import PATIENCE_S, ROOT, wait_for
from tests.examples.programs import Place, Program, commands_of, wrong_diffs

STEPS = "examples.moving.celery"
DONE = "shop:done"
PAGE = "docs/coming-from/moving-from-celery.md"
MOVED = {"charge": 3, "partner": 6, "label": 7, "pack-tea": 5, "pack-cup": 5, "ship-tea-cup": 5, "review": 2}
"""What is done for an order, and the step from which on it begins in durasleep."""
WHATS = tuple(MOVED)
LAST = 8
CELERY_WORKER = f"celery -A {STEPS}.step_{{}}:celery worker --queues celery,labels"
BEAT = f"celery -A {STEPS}.step_{{}}:celery beat"
WORKER = f"durasleep worker {STEPS}.step_{{}}:app"
LABELS_WORKER = f"{WORKER} --group labels"
PLACE = f"python -m {STEPS}.step_{{}}"
CHECK_IN = "durasleep rpc first-check check_in --namespace shop"
DOCTOR = "durasleep doctor --namespace shop"
DRAINED = f"python -m {STEPS}.drained celery labels"
CARRY = f"python -m {STEPS}.carry celery"
COMMANDS = (CELERY_WORKER, BEAT, WORKER, LABELS_WORKER, PLACE, CHECK_IN, DOCTOR, DRAINED, CARRY)
QUICK = ("--pool", "solo", "--without-gossip", "--without-mingle", "--loglevel", "INFO")

pytestmark = pytest.mark.timeout(180)  # each program is a Python that starts, which takes long on a busy machine


@pytest.fixture
def shop(make_server: MakeServer, tmp_path: Path) -> Iterator[Place]:
    server = make_server(persist=False)
    with Place(server.url, tmp_path, REVIEW_AFTER_S="1.5", COUNT_EVERY_S="1") as place:
        yield place


def celery_worker(shop: Place, step: int) -> Program:
    return shop.start(CELERY_WORKER.format(step), *QUICK)


def worker(shop: Place, step: int, *, group: str = "") -> Program:
    return shop.start((LABELS_WORKER if group else WORKER).format(step))


def beat(shop: Place, step: int) -> Program:
    return shop.start(BEAT.format(step), "--schedule", str(shop.directory / "beat"))


def place_orders(shop: Place, step: int, *orders: str) -> None:
    shop.run(" ".join((PLACE.format(step), *orders)))


def by(shop: Place, what: str) -> dict[str, int]:
    """Which process did it for whom."""
    return {act.whom: act.pid for act in shop.acts(DONE) if act.what == what}


def by_whom(shop: Place) -> set[int]:
    """The processes that have done something."""
    return {act.pid for act in shop.acts(DONE)}


def keys(shop: Place) -> tuple[set[str], set[str]]:
    """The names of all keys: those of durasleep, and the others."""
    names = set(shop.store.scan_iter(count=1000))
    ours = {name for name in names if name.startswith(("{shop:0}:", "{shop}:"))}
    return ours, names - ours


def test_step_1_neither_sees_the_keys_of_the_other(shop: Place) -> None:
    worker(shop, 1).until("is ready")
    ours, others = keys(shop)
    assert ours
    assert others == set()
    place_orders(shop, 1, "first")
    still, others = keys(shop)
    assert still == ours
    assert {"celery", "labels"} <= others
    assert shop.run(CHECK_IN) == "durasleep is here\n"
    assert keys(shop)[1] == others
    assert "6 messages" in shop.run(f"celery -A {STEPS}.step_1:celery purge --force --queues celery,labels")
    with Client(shop.url, namespace="shop") as client:
        assert client.get("first-check").result() == "durasleep is here"
        assert client.fsck().findings == []


def test_step_1_doctor_names_what_a_redis_that_was_only_a_broker_may_lose(shop: Place) -> None:
    shop.store.config_set("maxmemory", "100mb")
    shop.store.config_set("maxmemory-policy", "allkeys-lru")
    said = shop.run(DOCTOR, code=1)
    assert "danger  eviction: allkeys-lru: when memory is full, sleeping workflows vanish" in said
    assert "danger  persistence: nothing is written to disk" in said
    refused = worker(shop, 1)
    assert refused.ended() == 4
    assert "set maxmemory-policy noeviction" in refused.log()
    shop.store.config_set("maxmemory-policy", "noeviction")
    shop.store.config_set("appendonly", "yes")
    wait_for(lambda: shop.store.info("persistence")["aof_last_bgrewrite_status"] == "ok", "the log on disk")
    shop.run(DOCTOR)


def test_step_1_a_database_of_its_own_outlives_a_flush_of_the_database_of_celery(shop: Place) -> None:
    """FLUSHDB empties one database with both systems in it; memory and its policy are those of the whole server."""
    with Client(shop.url, namespace="shop") as shared, Client(f"{shop.url}/1", namespace="shop") as apart:
        for client in (shared, apart):
            client.promises.create("kept")
        shop.store.flushdb()
        assert apart.promises.get("kept").id == "kept"
        with pytest.raises(NotFound):
            shared.promises.get("kept")


def test_step_4_no_count_is_missed_or_done_twice_when_a_schedule_takes_over_from_beat(shop: Place) -> None:
    """In the order of the page: an old worker of Celery counts whatever the schedule has counted."""
    before, beating = celery_worker(shop, 3), beat(shop, 3)
    wait_for(lambda: before.pid in by_whom(shop), "a count by Celery alone")
    celery = celery_worker(shop, 4)
    celery.until("ready.")
    before.stop()  # first: of two that wait for beat, the same one may be served each time
    wait_for(lambda: celery.pid in by_whom(shop), "a count that the schedule may see")
    beating.stop()
    beating = beat(shop, 4)
    new = worker(shop, 4)
    wait_for(lambda: new.pid in by(shop, "stock").values(), "a count by the schedule")
    with Client(shop.url, namespace="shop") as client:
        assert client.schedules.get("count-stock").name == "count-stock"
    counts = by(shop, "stock")
    beating.stop()
    enough = len(counts) + 2
    wait_for(lambda: len(by(shop, "stock")) >= enough, "counts without beat")
    counted = [int(act.whom) for act in shop.acts(DONE) if act.pid != before.pid]
    assert len(counted) == len(set(counted))
    since = min(int(period) for period, pid in counts.items() if pid == new.pid)
    assert {period for period in counted if period >= since} == set(range(since, max(counted) + 1))
    assert celery.pid in counts.values()


def test_step_6_the_partner_is_told_at_most_five_times_a_second_whatever_the_number_of_workers(shop: Place) -> None:
    workers = [worker(shop, 6), worker(shop, 6)]
    orders = [f"order-{number}" for number in range(8)]
    began_s = time.time()
    place_orders(shop, 6, *orders)
    shop.once(DONE, ["partner"], orders)
    assert max(act.at_s for act in shop.acts(DONE) if act.what == "partner") > began_s + 7 / 5
    assert set(by(shop, "partner").values()) <= {one.pid for one in workers}
    with Client(shop.url, namespace="shop") as client:
        client.limits.set("partner", rate="3/s")
        client.limits.reset("partner")


def test_what_waits_in_celery_is_seen_until_it_is_carried_over(shop: Place) -> None:
    shop.environment["REVIEW_AFTER_S"] = "259200"
    place_orders(shop, 0, "first")
    assert shop.run(DRAINED, code=1) == "celery: 5\nlabels: 1\nunacked: 0\n"
    celery = celery_worker(shop, 7)
    shop.once(DONE, [what for what in WHATS if what != "review"], ["first"])
    wait_for(lambda: left(shop.store, ["celery", "labels"]) == {"celery": 0, "labels": 0, "unacked": 1}, "the review")
    celery.stop()
    assert left(shop.store, ["celery", "labels"]) == {"celery": 1, "labels": 0, "unacked": 0}
    assert shop.run(CARRY) == "carried over: 1\n"
    assert shop.run(DRAINED) == "celery: 0\nlabels: 0\nunacked: 0\n"
    shop.environment["REVIEW_AFTER_S"] = "0"
    place_orders(shop, 0, "late")
    assert shop.run(CARRY) == "carried over: 1\n"
    assert left(shop.store, ["celery"])["celery"] == 4  # what is not named in it stays in Celery
    with Client(shop.url, namespace="shop") as client:
        [first] = client.search(status="delayed")
        client.wake(first.id)
    worker(shop, 8)
    shop.once(DONE, ["review"], ["first", "late"])


def test_a_moved_task_takes_what_celery_takes_and_refuses_what_it_cannot_keep(shop: Place) -> None:
    def double(number: int) -> int:
        return 2 * number

    was: list[str] = []
    with Client(shop.url, namespace="shop") as client:
        task = moved(Durasleep(shop.url, namespace="shop"), client, was=lambda fn: was.append(fn.__name__))(double)
        assert task(4) == 8
        in_an_hour = datetime.now(UTC) + timedelta(hours=1)
        for _ in range(2):
            task.apply_async((4,), task_id="one", eta=in_an_hour, queue="labels")
        later = task.apply_async(kwargs={"number": 4}, countdown=3600)
        now = task.delay(4)
        with pytest.raises(TypeError, match="expires"):
            task.apply_async((4,), expires=60)  # pyright: ignore[reportCallIssue]
        due = {start.id: start.due_at_ms / 1000 for start in client.timers()}
        assert due == {
            "one": pytest.approx(in_an_hour.timestamp(), abs=1),
            later.id: pytest.approx(time.time() + 3600, abs=30),
        }
        assert client.describe("one").group == "labels"
        assert client.describe(now.id).status == "queued"
    assert was == ["double"]


def test_a_part_of_a_chain_is_not_carried_over(shop: Place) -> None:
    chain = f"from {STEPS}.step_0 import ask_for_review as ask; (ask.si('a') | ask.si('b')).apply_async(countdown=9)"
    shop.run(f'python -c "{chain}"')
    assert shop.run(CARRY) == "carried over: 0\n"
    assert left(shop.store, ["celery"])["celery"] == 1


class WebSite:
    """A process that places orders, as each step would: it is quicker than one for each."""

    PROGRAM = f"""
import importlib, sys
for line in sys.stdin:
    step, order = line.split()
    importlib.import_module(f"{STEPS}.step_{{step}}").place(order)
    print("placed", step, order)
"""

    def __init__(self, shop: Place) -> None:
        self._program = shop.start(shlex.join(["python", "-c", self.PROGRAM]), has_input=True)

    def place(self, step: int, order: str) -> None:
        self._program.write(f"{step} {order}\n")
        self._program.until(f"placed {step} {order}\n")


def test_each_step_moves_its_part_and_nothing_is_lost_or_done_twice_through_the_whole_move(
    shop: Place, subtests: pytest.Subtests
) -> None:
    """The workers of each step take over from those of the step before while orders come in. Where a schedule begins,
    the workers of Celery do so first.
    """
    orders: dict[str, int] = {}
    celery: set[int] = set()
    running: list[Program] = []
    web = WebSite(shop)
    for step in range(LAST + 1):
        starting: list[Program] = []
        if step < LAST:
            starting.append(celery_worker(shop, step))
            celery.add(starting[-1].pid)
        if step == 4:
            for program in running:
                if program.pid in celery:
                    program.stop()
        starting += [worker(shop, step)] if step >= 1 else []
        starting += [worker(shop, step, group="labels")] if step >= 7 else []
        web.place(step, order := f"order-{step}")
        orders[order] = step
        for program in running:
            program.stop()
        running = starting
        if step == LAST - 1:
            wait_for(lambda: not any(left(shop.store, ["celery", "labels"]).values()), "Celery to be drained")
    web.place(LAST, f"order-{LAST}")  # once more
    shop.once(DONE, WHATS, tuple(orders))
    where = {(act.what, orders[act.whom]): act.pid in celery for act in shop.acts(DONE) if act.whom in orders}
    for step in range(LAST + 1):
        with subtests.test(step=step):
            assert {what: where[what, step] for what in MOVED} == {what: step < since for what, since in MOVED.items()}
    assert not any(left(shop.store, ["celery", "labels"]).values())


def test_the_last_step_does_not_import_celery() -> None:
    loads = f"import sys, {STEPS}.step_{LAST}; sys.exit('celery' in sys.modules or 'kombu' in sys.modules)"
    subprocess.run([sys.executable, "-c", loads], cwd=ROOT, timeout=PATIENCE_S, check=True)


def test_the_page_has_only_commands_that_are_run_here_and_shows_what_differs_between_the_steps() -> None:
    known = {command.format("N") for command in COMMANDS}
    of_others = "python -m pytest tests/examples/test_moving_from_celery.py"
    written = {re.sub(r" order-.*", "", command) for command in commands_of(PAGE)}
    assert written - known == {of_others}
    assert wrong_diffs(PAGE, ROOT / "examples/moving/celery") == []
