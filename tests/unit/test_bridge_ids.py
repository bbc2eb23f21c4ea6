"""Ids of executions and of the promises that stand for them: each has its own, and can be told from it."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.errors import InvalidId
from durasleep.model import PromiseId, check_id, root_of
from durasleep.protocol import bridge

IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)


@given(IDS)
def test_an_outward_promise_begins_no_family_of_another_one(id: str) -> None:
    promise = bridge.promise_id(PromiseId(id))
    assert unquote(promise) == id
    assert not {":", "."} & {*promise}


@given(IDS)
def test_an_inward_promise_is_an_execution_with_an_id_of_its_own(promise: str) -> None:
    id = bridge.execution_id(promise)
    assert unquote(id) == promise
    assert check_id(id) == root_of(id) == id


def test_a_retried_call_has_another_promise_and_no_execution_has_its_id() -> None:
    assert bridge.promise_id(PromiseId("a.b~3"), 17) == "a%2Eb~3~i17"


@given(IDS)
def test_a_waiter_is_one_line(promise: str) -> None:
    for is_outward in (False, True):
        line = bridge.waiter(3, promise, is_outward=is_outward)
        assert len(line.split()) == 3
        assert bridge.waiting_promise(line) == promise
        assert bridge.is_outward_waiter(line) is is_outward


def test_waiters_of_other_partitions_are_no_promises() -> None:
    assert bridge.waiting_promise("3 1800000000000 order-1~2") is None


def test_an_id_that_is_too_long_for_an_execution_is_refused() -> None:
    with pytest.raises(InvalidId):
        bridge.execution_id("x" * 600)
