"""Replay, as laws over a corpus of workflow shapes and over programs that hypothesis makes up.

A workflow has one history: kept in memory, replayed at every event or cut off anywhere, it ends the same way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durasleep.model import Kind, Number, State
from durasleep.runtime.context import Context
from durasleep.runtime.replay import Halted
from tests.laws.programs import Program, interpret, programs
from tests.laws.shapes import SHAPES, Shape
from tests.unit.runtime_world import World, value_of
from tests.unit.test_runtime_debug import DebugWorld

SHAPE_IDS = [f"{shape.fn.__name__}-{n}" for n, shape in enumerate(SHAPES)]

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)


def world_of(shape: Shape, *, keep: bool = False) -> World:
    return World(shape.fn, keep=keep, script=shape.script)


def test_the_corpus_has_thirty_shapes_and_more() -> None:
    assert len({shape.fn for shape in SHAPES}) >= 30


# -- the laws, each over whatever world it is given


def check_one_history(kept: World, replayed: World, watched: World) -> None:
    """Kept in memory, suspended and replayed at every event, or driven twice in debug mode: it is the same."""
    results = [value_of(world.play()) for world in (kept, replayed, watched)]
    assert results[0] == results[1] == results[2]
    assert kept.journal == replayed.journal == watched.journal
    assert kept.commands == replayed.commands == watched.commands
    assert Counter(kept.steps_run) == Counter(replayed.steps_run) == Counter(watched.steps_run)


def check_cuts(whole: World) -> None:
    """Cut off after any write and resumed, it ends the same way; what was done before the cut is not done again."""
    result = value_of(whole.play())
    for cut in whole.cuts:
        committed = {number for number, entry in cut.journal.items() if entry.kind is Kind.STEP and entry.stamp}
        for keep in (False, True):
            rest = cut.copied()
            rest.keep = keep
            assert value_of(rest.play()) == result
            assert not differing(rest, whole)
            assert rest.commands == whole.commands
            assert not committed & set(rest.steps_run)
            assert len(set(rest.steps_run)) == len(rest.steps_run)


def differing(one: World, other: World) -> set[str]:
    """Numbers under which two journals differ, but for what lost a race: a step may never have begun, and a call that
    is taken back before it was ever committed leaves no tombstone.
    """
    first, second = one.shape(), other.shape()
    return {
        number
        for number in first.keys() | second.keys()
        if first.get(number) != second.get(number)
        and not any(
            entry is not None and (entry[0] is Kind.STEP or entry[2] is State.CANCELED)
            for entry in (first.get(number), second.get(number))
        )
    }


def check_fixed_point(world: World) -> None:
    """A finished journal, replayed, gives the same ending and asks for nothing."""
    progress = world.play()
    again = world.copied()
    activation = again.new_activation()
    repeated = activation.start(again.journal.values())
    activation.close()
    assert value_of(repeated) == value_of(progress)
    assert repeated.steps == ()
    assert [op for op in repeated.ops if op.number not in world.journal] == []


# -- over the corpus


@each_shape
def test_always_suspended_or_straight_it_has_one_history(shape: Shape) -> None:
    check_one_history(world_of(shape, keep=True), world_of(shape), DebugWorld(shape.fn, keep=True, script=shape.script))


@each_shape
def test_cut_off_after_any_write_it_ends_the_same_way(shape: Shape) -> None:
    whole = world_of(shape)
    check_cuts(whole)
    for cut in whole.cuts:
        committed = {number for number, entry in cut.journal.items() if entry.kind is Kind.STEP and entry.stamp}
        rest = cut.copied()
        rest.play()
        assert committed | set(rest.steps_run) == set(whole.steps_run)  # each effect, and each once


@each_shape
def test_a_finished_journal_is_a_fixed_point(shape: Shape) -> None:
    check_fixed_point(world_of(shape))


@each_shape
def test_replay_asks_for_nothing_new(shape: Shape) -> None:
    """Every journal that was written is one whose code, replayed, wants exactly what was asked for live."""
    world = world_of(shape)
    world.play()
    for cut in world.cuts:
        first, second = cut.copied(), cut.copied()
        one, two = first.new_activation(), second.new_activation()
        asked = one.start(first.journal.values())
        assert two.start(reversed(list(second.journal.values()))) == asked
        first.commit(asked)
        one.close()
        two.close()
        repeated = first.new_activation()
        if asked.outcome is None and not any(entry.stamp > one.seen for entry in first.journal.values()):
            assert repeated.start(first.journal.values()).ops == ()
        else:
            repeated.start(first.journal.values())
        repeated.close()


@each_shape
def test_any_entry_taken_from_the_middle_is_noticed(shape: Shape) -> None:
    """A journal with another entry under a number than the code asks for is halted, wherever that is."""
    world = world_of(shape)
    world.play()
    for number in world.journal:
        if number == "0" or world.journal[number].kind.is_mark:
            continue
        changed = world.copied()
        entry = changed.journal[number]
        changed.journal[number] = type(entry)(number, entry.kind, entry.state, "other", entry.stamp)
        activation = changed.new_activation()
        outcome = activation.start(changed.journal.values()).outcome
        activation.close()
        assert isinstance(outcome, Halted)
        assert f" {number} " in outcome.reason


@each_shape
@given(data=st.data())
def test_settlements_found_together_or_one_by_one_make_no_difference(shape: Shape, data: st.DataObject) -> None:
    """A worker may look after each settlement or after several: what settled is delivered in its order all the same."""
    world = world_of(shape)
    progress = world.activate()
    world.close()
    while progress.outcome is None:
        for _ in range(data.draw(st.integers(1, 4))):
            if world.step_time() is None:
                break
        progress = world.activate()
        world.close()
    kept = world.copied()
    kept.keep = True
    kept.journal = {}
    one_by_one = kept.new_activation()
    fed = one_by_one.start([])
    for entry in sorted(world.journal.values(), key=lambda entry: entry.stamp):
        if entry.stamp and fed.outcome is None:
            fed = one_by_one.feed([entry])
    one_by_one.close()
    assert value_of(fed) == value_of(progress)


def test_ten_thousand_timers_replay_within_a_second_or_two() -> None:
    async def wide(ctx: Context) -> int:
        return len(await asyncio.gather(*(ctx.sleep(1) for _ in range(10_000))))

    world = World(wide)
    activation = world.new_activation()
    progress = activation.start([])
    assert len(progress.ops) == 10_000
    activation.close()
    world.cuts = []
    world.now_ms += 1000
    entries = [
        type(entry)(Number(str(n)), entry.kind, State.RESOLVED, "", world.now_ms + n)
        for n, entry in enumerate(_pending(world, progress), 1)
    ]
    activation = world.new_activation()
    assert value_of(activation.start(entries)) == 10_000
    activation.close()


def _pending(world: World, progress: Any) -> list[Any]:
    for op in progress.ops:
        world.cuts = []
        world.commit(type(progress)((op,), (), (), True, None))
    return list(world.journal.values())


# -- over programs

seldom = settings(max_examples=100, deadline=None)


@seldom
@given(programs)
def test_every_program_has_one_history(program: Program) -> None:
    check_one_history(World(interpret, program, keep=True), World(interpret, program), DebugWorld(interpret, program))


@seldom
@given(programs)
def test_every_program_may_be_cut_off_anywhere(program: Program) -> None:
    world = World(interpret, program)
    check_cuts(world)


@seldom
@given(programs)
def test_every_finished_program_is_a_fixed_point(program: Program) -> None:
    check_fixed_point(World(interpret, program))


@seldom
@given(st.lists(programs, min_size=2, max_size=4), programs, st.data())
def test_a_call_more_in_one_branch_renumbers_no_other(
    branches: list[Program], more: Program, data: st.DataObject
) -> None:
    changed = data.draw(st.integers(0, len(branches) - 1))
    longer = [["seq", more, branch] if index == changed else branch for index, branch in enumerate(branches)]
    before, after = World(interpret, ["gather", *branches]), World(interpret, ["gather", *longer])
    results, longer_results = value_of(before.play()), value_of(after.play())
    for index in range(len(branches)):
        if index != changed:
            assert longer_results[index] == results[index]
            asked, asked_later = _asked_in(before, index + 1), _asked_in(after, index + 1)
            for number in asked.keys() & asked_later.keys():  # what a branch leaves behind goes on while others do
                assert asked_later[number] == asked[number]


def _asked_in(world: World, branch: int) -> dict[str, tuple[Kind, str]]:
    entries = world.journal.items()
    return {number: (entry.kind, entry.name) for number, entry in entries if number.startswith(f"{branch}.")}
