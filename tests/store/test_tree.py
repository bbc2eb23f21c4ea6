"""call_tree.py on every server: the calls of an execution in order, and where a tree is cut."""

from __future__ import annotations

import pytest

from durasleep.errors import NotFound
from durasleep.model import CommitAction, Number, StartPromise, StartTimer, State, StepResult
from durasleep.query import call_tree
from durasleep.query.call_tree import Tree
from tests.store.driver import FAR, Driver, child


async def test_of_a_long_journal_the_end_is_shown_and_what_it_waits_for(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, StartTimer(Number("1"), "", FAR))
    steps = [StepResult(Number(str(number)), "step", State.RESOLVED, b"") for number in range(2, 1_200)]
    for first in range(0, len(steps), 200):
        await driver.commit(lease, CommitAction.CONTINUE, *steps[first : first + 200])
    found = await driver.store.run(call_tree.tree(lambda _: driver.keys, "a", nodes_max=5))
    assert [child.id for child in found.root.children] == ["a~1", "a~1197", "a~1198", "a~1199"]
    assert not found.is_all
    await driver.control("force", "a")


async def test_a_tree_is_cut_where_it_grows_too_large_or_too_deep(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.create("a")
    for _ in range(6):
        ops = [child("10"), StartTimer(Number("2"), "", FAR), StartPromise(Number("2.1"), "", None)]
        await driver.commit(await driver.take(), CommitAction.SUSPEND, *ops)

    async def look() -> Tree:
        return await driver.store.run(call_tree.tree(lambda _: driver.keys, "a"))

    whole = await look()
    assert whole.is_all
    assert [child.id for child in whole.root.children] == ["a~2", "a~2.1", "a~10"]
    monkeypatch.setattr(call_tree, "DEPTH_MAX", 3)
    cut = await look()
    assert not cut.is_all
    assert cut.root.children[2].children[2].children[2].children == []
    monkeypatch.setattr(call_tree, "NODES_MAX", 2)
    cut = await look()
    assert (len(cut.root.children), cut.is_all) == (1, False)
    with pytest.raises(NotFound):
        await driver.store.run(call_tree.tree(lambda _: driver.keys, "a~2"))
    await driver.control("force", "a")
    assert {child.state for child in (await look()).root.children} == {"canceled"}
