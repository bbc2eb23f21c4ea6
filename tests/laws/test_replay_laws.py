"""Replay, as laws over a corpus of workflow shapes and over random programs.

A workflow has one history: kept in memory, replayed at every event or interrupted anywhere, it ends in the same way.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durasleep.model import MARKS, Kind, Number, State
from durasleep.runtime.context import Context
from durasleep.runtime.outcome import Halted, Resolved
from tests.laws.programs import BRANCHES, LEAVES, Node, answer, program, programs
from tests.laws.shapes import SHAPE_IDS, SHAPES, Shape
from tests.unit.runtime_world import DebugWorld, World, unwrap

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)


def some(examples: int) -> Any:
    """The number of programs: each of them runs many times, and all tests of this file take less than a minute."""
    return settings(max_examples=examples)


def test_the_corpus_has_many_shapes() -> None:
    assert len({shape.fn for shape in SHAPES}) >= 30


# -- the same history, however it is run


def check_one_history(shape: Shape) -> None:
    kept, replayed = shape.world(keep=True), shape.world()
    assert unwrap(kept.play()) == unwrap(replayed.play())
    assert kept.history() == replayed.history()
    assert kept.commands == replayed.commands
    assert kept.committed == replayed.committed
    assert kept.calls.items() >= replayed.calls.items()


@each_shape
def test_kept_in_memory_or_replayed_at_every_event_it_has_one_history(shape: Shape) -> None:
    check_one_history(shape)


@given(shape=programs())
@some(150)
def test_any_program_kept_in_memory_or_replayed_at_every_event_has_one_history(shape: Shape) -> None:
    check_one_history(shape)


@each_shape
def test_debug_mode_finds_nothing_and_changes_nothing(shape: Shape) -> None:
    for keep in (True, False):
        plain = shape.world(keep=keep)
        watched = DebugWorld(shape.fn, *shape.args, keep=keep, script=shape.script, answer=shape.answer)
        assert unwrap(watched.play()) == unwrap(plain.play())
        assert watched.halts == []
        assert watched.history() == plain.history()


# -- cut off anywhere


def check_cuts(shape: Shape, *, torn: bool) -> None:
    """Steps are run again only if their result was not journaled, and each result counts once.

    With ``torn``, commits too large for one script call are also interrupted in the middle.
    """
    whole = shape.world(keep=True)
    result = unwrap(whole.play())
    assert len(whole.committed) == len(set(whole.committed))
    for cut in whole.cuts:
        if cut.torn and not torn:
            continue
        for keep in (False, True):
            rest = cut.copied()
            rest.keep = keep
            assert unwrap(rest.play()) == result
            assert outline(rest) == outline(whole)
            assert rest.commands == whole.commands
            assert sorted(rest.committed) == sorted(whole.committed)
            assert not rest.calls.keys() & set(cut.committed)
            assert rest.calls.items() <= whole.calls.items()


def outline(world: World) -> list[tuple[Number, Kind, str, State, bytes]]:
    """A journal without its times: a worker that comes back late asks for its next timer late."""
    return [(entry.number, entry.kind, entry.name, entry.state, entry.payload) for entry in world.history()]


@each_shape
def test_cut_off_after_any_write_it_ends_the_same_way_with_the_same_effects(shape: Shape) -> None:
    check_cuts(shape, torn=True)


@given(shape=programs())
@some(60)
def test_any_program_cut_off_after_any_write_ends_the_same_way_with_the_same_effects(shape: Shape) -> None:
    """Except for interrupted commits: of two transactions in a race, the missing one is never made."""
    check_cuts(shape, torn=False)


# -- a finished journal


def check_fixed_point(shape: Shape) -> None:
    world = shape.world()
    progress = world.play()
    again = world.copied()
    for entries in (again.journal.values(), reversed(list(again.journal.values()))):
        activation = again.new_activation()
        repeated = activation.start(entries)
        activation.close()
        assert repeated.outcome == progress.outcome
        assert repeated.steps == ()
        assert [op for op in repeated.ops if op.number not in world.journal] == []


@each_shape
def test_a_finished_journal_is_a_fixed_point(shape: Shape) -> None:
    check_fixed_point(shape)


@given(shape=programs())
@some(150)
def test_the_finished_journal_of_any_program_is_a_fixed_point(shape: Shape) -> None:
    check_fixed_point(shape)


# -- a growing journal


def check_nothing_new(shape: Shape) -> None:
    """Replaying the code over each stored journal gives exactly the same calls as the live run."""
    world = shape.world()
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
def test_replay_asks_for_nothing_new(shape: Shape) -> None:
    check_nothing_new(shape)


@given(shape=programs())
@some(60)
def test_replay_of_any_program_asks_for_nothing_new(shape: Shape) -> None:
    check_nothing_new(shape)


@each_shape
def test_any_entry_taken_from_the_middle_is_noticed(shape: Shape) -> None:
    """If the journal has another entry than the code asks for under a number, it is halted, at any number."""
    world = shape.world()
    world.play()
    for number in world.journal:
        if number == "0" or world.journal[number].kind in MARKS:
            continue
        changed = world.copied()
        entry = changed.journal[number]
        changed.journal[number] = type(entry)(number, entry.kind, entry.state, "other", entry.stamp)
        activation = changed.new_activation()
        outcome = activation.start(changed.journal.values()).outcome
        activation.close()
        assert isinstance(outcome, Halted)
        assert f" {number} " in outcome.reason


# -- changing one branch


def check_branches(branches: list[Node], changed: int, part: Node, *, first: bool) -> None:
    """When ``part`` is added to one branch, numbers, names and results of the other branches stay the same."""
    others = [*branches]
    others[changed] = ["seq", part, *branches[changed][1:]] if first else [*branches[changed], part]
    before, after = (
        Shape(program, args=(["gather all", *parts],), answer=answer).world() for parts in (branches, others)
    )
    expected = [found for n, found in enumerate(unwrap(before.play())) if n != changed]
    assert [found for n, found in enumerate(unwrap(after.play())) if n != changed] == expected
    # Calls that a branch has left running may come less far, or farther, before the workflow ends.
    lines = [{line[0]: line[1:3] for line in outline(world)} for world in (before, after)]
    for number in lines[0].keys() & lines[1].keys():
        assert lines[0][number] == lines[1][number] or number.startswith(f"{changed + 1}.")
    if first:
        return
    # An execution of the old code goes on with the new code: the added call is the last of its branch.
    for cut in before.cuts:
        rest = cut.copied()
        rest.args = after.args
        progress = rest.play()
        assert isinstance(progress.outcome, Resolved)
        assert [found for n, found in enumerate(unwrap(progress)) if n != changed] == expected


@given(branches=BRANCHES, data=st.data(), part=LEAVES, first=st.booleans())
@some(80)
def test_a_call_added_to_one_branch_renumbers_no_other(
    branches: list[Node], data: st.DataObject, part: Node, first: bool
) -> None:
    check_branches(branches, data.draw(st.integers(0, len(branches) - 1)), part, first=first)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("changed", range(3))
def test_a_call_added_to_one_branch_of_a_group_renumbers_no_other(changed: int, first: bool) -> None:
    async def grouped(ctx: Context, extra: int) -> list[Any]:
        async def branch(n: int) -> list[Any]:
            if first and n == extra:
                await ctx.sleep(1, name="added")
            found = [await ctx.run(int, n), await asyncio.gather(ctx.sleep(n, name=f"{n}"), ctx.run(int, 10 * n))]
            if n == extra:
                await ctx.sleep(1, name="added")
            return found

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(n)) for n in range(3)]
        return [task.result() for task in tasks]

    before, after = World(grouped, -1), World(grouped, changed)
    assert unwrap(before.play()) == unwrap(after.play())
    mine = f"{changed + 1}."
    assert before.shape().items() - after.shape().items() <= {
        item for item in before.shape().items() if item[0].startswith(mine)
    }
    assert {number for number in after.shape().keys() - before.shape().keys() if not number.startswith(mine)} == set()


# -- settlements at the same time


@each_shape
@given(data=st.data())
@some(15)
def test_settlements_found_together_or_one_by_one_make_no_difference(shape: Shape, data: st.DataObject) -> None:
    """A worker may look after each settlement or after several: they are delivered in their order all the same."""
    world = shape.world()
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
    assert unwrap(fed) == unwrap(progress)


# -- size


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
    assert unwrap(activation.start(entries)) == 10_000
    activation.close()


def _pending(world: World, progress: Any) -> list[Any]:
    for op in progress.ops:
        world.cuts = []
        world.commit(type(progress)((op,), (), (), True, None))
    return list(world.journal.values())
