"""Each recipe of docs/how-to/recipes.md: as its first lines say, also with crashes, months and crowds."""

from __future__ import annotations

import asyncio
import inspect
import re
import shlex
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from durasleep import Canceled, Durasleep
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import journal
from durasleep.testing import Env
from examples import (
    chain,
    chord,
    group,
    idempotent_charge,
    long_step,
    map_many,
    nightly_report,
    per_customer,
    saga,
    subscription,
)
from harness.servers import MakeServer
from tests.cli.conftest import Connect, Kit, Quick
from tests.cli.terminal import ROOT, Terminal, run_as_program
from tests.service.workers import PATIENCE_S, eventually, serving

LINES_MAX = 60
TRIED_ELSEWHERE = ("approval_web", "reminders")
"""In test_examples.py: their clients must wait for something."""
NAMES = sorted(re.findall(r"\(\.\./\.\./examples/(\w+)\.py\)", (ROOT / "docs" / "how-to" / "recipes.md").read_text()))


class Watched:
    """Some functions of a recipe, called as they are; the calls are kept, and the first one of each of ``stuck`` never
    comes back, with its work done or not.
    """

    def __init__(self, *functions: Callable[..., Any], stuck: tuple[str, ...] = (), is_done: bool = False) -> None:
        self.calls: list[str] = []
        self.overrides = {function: self._watch(function) for function in functions}
        self._stuck = {call: asyncio.Event() for call in stuck}
        self._is_done = is_done

    def _watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(*args: Any) -> Any:
            call = " ".join(map(str, (function.__name__, *args)))
            self.calls.append(call)
            stands = self._stuck.get(call)
            is_stuck = stands is not None and not stands.is_set()
            if stands and is_stuck and not self._is_done:
                await self._stand(stands)
            result = function(*args)
            result = await result if inspect.isawaitable(result) else result
            if stands and is_stuck:
                await self._stand(stands)
            return result

        return watched

    async def _stand(self, stands: asyncio.Event) -> None:
        stands.set()
        await asyncio.Event().wait()

    async def standing(self, call: str) -> None:
        """Wait until this call stands."""
        async with asyncio.timeout(PATIENCE_S):
            await self._stuck[call].wait()


# -- as users run them


def client_lines(text: str) -> list[tuple[str, str]]:
    """The commands of a client in the first lines of a recipe, each with what stands behind it."""
    block = text.partition("As a client:")[2].partition("\n\n")[0]
    lines = [re.split(r"\s{3,}", line.strip(), maxsplit=1) for line in block.splitlines()]
    return [(command, note[0] if note else "") for command, *note in lines]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRIED_ELSEWHERE])
def test_a_recipe_does_what_its_first_lines_say(
    name: str, make_server: MakeServer, tmp_path: Path, quick: Quick
) -> None:
    text = inspect.getdoc(import_module(f"examples.{name}")) or ""
    assert f"As a worker:   durasleep worker examples.{name}:app\n" in text
    terminal = Terminal(tmp_path, REDIS_URL=make_server().url)
    with terminal.running("worker", f"examples.{name}:app", until="is ready"):
        for command, note in client_lines(text):
            if command == f"python -m examples.{name}":
                program = run_as_program(name, terminal)
                code, out = program.returncode, program.stdout
            else:
                done = quick(terminal, *shlex.split(command.removeprefix("durasleep ")))
                code, out = done.code, done.out
            assert code == (1 if note.startswith("fails") else 0), command
            if note.startswith("prints: "):
                assert out.strip() == note.removeprefix("prints: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_short(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= LINES_MAX


def test_there_are_the_recipes_of_the_page() -> None:
    assert len(NAMES) >= 11


# -- with what may come between


async def test_a_chain_goes_on_behind_its_last_finished_task(kit: Kit) -> None:
    page = "<p>All about tea.</p>"
    watched = Watched(chain.write, chain.render, chain.upload, stuck=(f"upload {page}",))
    async with kit(chain.app) as env:
        mock_all(env, watched)
        handle = await env.start(chain.publish, "tea")
        await watched.standing(f"upload {page}")
        await env.crash_worker()
        assert await handle == "21 bytes are online"
    assert watched.calls == ["write tea", "render All about tea.", f"upload {page}", f"upload {page}"]


def mock_all(env: Env, watched: Watched) -> None:
    for function, stand_in in watched.overrides.items():
        env.mock(function, stand_in)


async def test_the_tasks_of_a_group_run_at_the_same_time_and_their_results_keep_their_order(kit: Kit) -> None:
    """Each waits until all have begun, and the first one until the others have ended."""
    barrier, ended = asyncio.Barrier(len(group.WIDTHS)), [asyncio.Event() for _ in group.WIDTHS]

    async def resize(photo: str, width: int) -> str:
        await barrier.wait()
        index = group.WIDTHS.index(width)
        if index + 1 < len(ended):
            await ended[index + 1].wait()
        ended[index].set()
        return await group.resize(photo, width)

    async with kit(group.app) as env:
        env.mock(group.resize, resize)
        async with asyncio.timeout(PATIENCE_S):
            assert await (await env.start(group.make_thumbnails, "a.png")) == "a-100.png a-400.png a-1600.png"


async def test_the_last_task_of_a_chord_runs_once_when_all_others_have_ended(kit: Kit) -> None:
    watched = Watched(chord.count, chord.add_up, stuck=("count b b",))
    async with kit(chord.app) as env:
        mock_all(env, watched)
        handle = await env.start(chord.count_words, ["a", "b b", "c c c"])
        await watched.standing("count b b")
        await eventually(lambda: len(watched.calls) == 3, "the others")
        await env.crash_worker()
        assert await handle == "6 words"
    assert watched.calls[-1] == "add_up [1, 2, 3]"
    assert [call.split()[0] for call in watched.calls].count("add_up") == 1


@pytest.mark.one_partition("the children of a workflow are all in its partition")
async def test_a_map_over_ten_thousand_goes_on_when_a_worker_dies(connect: Connect) -> None:
    app, count = connect(map_many.app), 10_000
    calls = Counter[int]()

    async def square(number: int) -> int:
        calls[number] += 1
        return await map_many.square(number)

    overrides = {map_many.square: square}
    async with serving(app, "w1", overrides=overrides) as first:
        handle = await app.rpc("squares", map_many.square_all, count)
        await eventually(lambda: len(calls) > count / 4, "a quarter")
        first.crash()
        await eventually(lambda: not first.held(), "the first to be dead")
        assert len(calls) < count
        async with serving(app, "w2", overrides=overrides):
            assert await handle.result(PATIENCE_S) == "10000 squares, the last is 99980001"
    assert calls.keys() == set(range(count))
    assert calls.total() <= count + 2 * map_many.PART


async def test_a_saga_undoes_what_was_done_in_reverse_order_although_two_workers_die_meanwhile(
    connect: Connect,
) -> None:
    app = connect(saga.app)
    undo = ("cancel hotel in Atlantis", "cancel flight in Atlantis")
    watched = Watched(saga.book, saga.cancel, stuck=undo)
    handle = await app.rpc("trip", saga.book_trip, "Atlantis")
    for name, call in zip(("w1", "w2"), undo, strict=True):
        async with serving(app, name, overrides=watched.overrides) as worker:
            await watched.standing(call)
            worker.crash()
    async with serving(app, "w3", overrides=watched.overrides):
        with pytest.raises(ValueError, match="no cars in Atlantis"):
            await handle.result(PATIENCE_S)
    booked = [f"book {kind} Atlantis" for kind in ("flight", "hotel", "car")]
    assert watched.calls == [*booked, undo[0], undo[0], undo[1], undo[1]]


async def test_a_saga_that_somebody_cancels_is_undone_as_well(kit: Kit) -> None:
    watched = Watched(saga.book, saga.cancel, stuck=("book car Rome",))
    async with kit(saga.app) as env:
        mock_all(env, watched)
        handle = await env.start(saga.book_trip, "Rome")
        await watched.standing("book car Rome")
        await handle.cancel()
        with pytest.raises(Canceled):
            await handle
    assert watched.calls[3:] == ["cancel hotel in Rome", "cancel flight in Rome"]


async def test_two_exports_of_a_customer_run_and_another_customer_need_not_wait(connect: Connect) -> None:
    app = connect(per_customer.app)
    running, most, gate = Counter[str](), Counter[str](), asyncio.Event()

    async def export(customer: str, month: str) -> str:
        running[customer] += 1
        most[customer] = max(most[customer], running[customer])
        await gate.wait()
        running[customer] -= 1
        return month

    async def parked() -> bool:
        return len(await app.search(status="parked")) == 4

    async with serving(app, overrides={per_customer.export: export}):
        calls = [(f"{{ada}}{month}", "ada", month) for month in per_customer.MONTHS]
        handles = await app.rpc_many(per_customer.export, [*calls, ("{bob}june", "bob", "june")])
        await eventually(parked, "four to be parked")
        await eventually(lambda: running == {"ada": 2, "bob": 1}, "two of ada and one of bob")
        gate.set()
        assert await app.gather(handles) == [*per_customer.MONTHS, "june"]
    assert most == {"ada": 2, "bob": 1}


async def test_a_report_of_the_day_before_is_sent_once_at_three_each_night(kit: Kit) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    sent: list[str] = []
    async with kit(nightly_report.app) as env:
        env.mock(nightly_report.send, sent.append)
        begin = await env.now()
        await env.skip(days=3)
        await env.crash_worker()
        await env.skip(days=4)
        end = await env.now()
        ids = {one.id for one in await env.app.search(status="done", function="nightly_report")}
    days = [begin.astimezone(berlin).date() + timedelta(days=number) for number in range(9)]
    nights = [datetime.combine(day, time(3), berlin) for day in days]
    nights = [night for night in nights if begin < night <= end]
    assert len(nights) >= 6
    assert ids == {f"nightly_report@{night.isoformat()}" for night in nights}
    assert [text.split()[-1] for text in sent] == [str(night.date() - timedelta(days=1)) for night in nights]


async def test_a_long_step_goes_on_at_its_checkpoint_after_a_crash_and_after_an_error(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    stands = asyncio.Event()

    async def import_row(file: str, row: int) -> None:
        rows.append(row)
        if row == 3 and rows.count(3) == 1:
            stands.set()
            await asyncio.Event().wait()
        if row == 7 and rows.count(7) == 1:
            raise ConnectionError("the database is away")

    monkeypatch.setattr(long_step, "import_row", import_row)
    async with kit(long_step.app) as env:
        handle = await env.start(long_step.import_file, "orders.csv", 10)
        async with asyncio.timeout(PATIENCE_S):
            await stands.wait()
        await eventually(lambda: has_kept(env.app, handle.id, 3), "the checkpoint")
        await env.crash_worker()
        await env.skip(minutes=1)
        assert await handle == "10 rows of orders.csv are imported"
    assert rows == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9]


async def has_kept(app: Durasleep, id: str, data: object) -> bool:
    """Whether a step of an execution has kept this for its next attempt."""
    store = await store_of(app)
    loaded = await store.run(journal.load(store.keys(id), PromiseId(id)))
    return loaded is not None and data in map(app.codec.decode, loaded.checkpoints.values())


async def test_a_crash_between_a_charge_and_its_record_charges_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = idempotent_charge.Provider()
    monkeypatch.setattr(idempotent_charge, "provider", provider)
    watched = Watched(idempotent_charge.charge, stuck=("charge ada 900",), is_done=True)
    async with kit(idempotent_charge.app) as env:
        mock_all(env, watched)
        handle = await env.start(idempotent_charge.pay, "ada", 900)
        await watched.standing("charge ada 900")
        assert list(provider.charges.values()) == ["charge 1"]
        await env.crash_worker()
        assert await handle == "ada paid 900 cents: charge 1"
        assert watched.calls == ["charge ada 900"] * 2
        assert len(provider.charges) == 1
        assert await env.run(idempotent_charge.pay, "ada", 900) == "ada paid 900 cents: charge 2"


@pytest.mark.parametrize("leap", [False, True], ids=["28 February", "29 February"])
async def test_a_subscription_of_31_january_bills_twelve_times_on_the_right_days(kit: Kit, leap: bool) -> None:
    watched = Watched(subscription.charge)
    async with kit(subscription.app) as env:
        mock_all(env, watched)
        now = await env.now()
        year = next(year for year in range(now.year + 1, now.year + 9) if is_leap(year) is leap)
        begin = datetime(year, 1, 31, 9, tzinfo=UTC)
        await env.skip(begin - now)
        handle = await env.start(subscription.subscribe, "ada", 900)
        await env.run_until_idle()
        assert len(watched.calls) == 1
        for count, (month, day) in enumerate(LAST_DAYS, 1):
            due = begin.replace(month=month, day=29 if leap and month == 2 else day)
            await env.skip(due - await env.now() - timedelta(milliseconds=1))
            assert len(watched.calls) == count
            await env.skip(timedelta(milliseconds=1))
            assert len(watched.calls) == count + 1
            if month == 6:
                await env.crash_worker()
        assert await handle == "ada has paid for a year"
        await env.skip(days=400)
    assert watched.calls == ["charge ada 900"] * 12


LAST_DAYS = ((2, 28), (3, 31), (4, 30), (5, 31), (6, 30), (7, 31), (8, 31), (9, 30), (10, 31), (11, 30), (12, 31))


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


@pytest.mark.parametrize(
    ("begin", "months", "expected"),
    [("2024-02-29", 12, "2025-02-28"), ("2025-12-31", 2, "2026-02-28"), ("2025-11-15", 11, "2026-10-15")],
)
def test_months_are_counted_over_the_end_of_a_year(begin: str, months: int, expected: str) -> None:
    assert subscription.months_after(datetime.fromisoformat(begin), months) == datetime.fromisoformat(expected)
