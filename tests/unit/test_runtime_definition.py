"""Which functions can be registered, and under which name."""

from __future__ import annotations

import decimal
import functools
from typing import Any, cast

import pytest

from durasleep.errors import DefinitionError
from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry, definition_of, name_of, returns_of, step_name_of


async def order(ctx: Context, n: int) -> str:
    return str(n)


def ship(address: str) -> int:
    return len(address)


def test_a_function_is_found_by_its_own_name_or_the_one_given() -> None:
    async def flow(ctx: Context) -> None: ...

    def work() -> None: ...

    registry = Registry()
    workflow, task = registry.workflow(flow), registry.task(work, "billing.work")
    assert registry.names() == ("flow", "billing.work")
    assert registry.get("flow") is workflow
    assert registry.get("billing.work") is task
    assert registry.get("work") is None
    assert name_of(flow) == "flow"
    assert name_of(work) == name_of(task) == name_of("billing.work") == "billing.work"


def test_registering_a_function_twice_is_the_same_registration() -> None:
    registry = Registry()
    assert registry.workflow(order) == registry.workflow(order)
    assert Registry().workflow(order) == registry.get("order")


def test_a_name_belongs_to_one_function() -> None:
    def same(n: int) -> None: ...

    registry = Registry()
    registry.task(same)
    with pytest.raises(DefinitionError, match="already registered"):
        registry.task(ship, "same")
    with pytest.raises(DefinitionError, match="a function has one name"):
        registry.task(same, "other")
    assert registry.names() == ("same",)


def test_a_call_that_stands_where_a_function_does_is_told_so() -> None:
    with pytest.raises(DefinitionError, match=r"^order\(\.\.\.\) is a call, not a function: give order itself"):
        name_of(cast("Any", order(cast("Any", None), 1)))
    with pytest.raises(DefinitionError, match=r"^5 is not a function$"):
        name_of(cast("Any", 5))


def test_a_sync_workflow_is_refused_with_the_reason() -> None:
    def sync(ctx: Context) -> None: ...

    with pytest.raises(DefinitionError, match="cannot be suspended: make it `async def`, or register it as a task"):
        Registry().workflow(sync)  # pyright: ignore[reportArgumentType]


async def _no_parameters() -> None: ...
async def _no_context(seconds: int) -> None: ...
async def _keyword_only(*, ctx: Context) -> None: ...


@pytest.mark.parametrize("fn", [_no_parameters, _no_context, _keyword_only])
def test_a_workflow_without_a_context_is_refused(fn: Any) -> None:
    with pytest.raises(DefinitionError, match="its first parameter is the Context"):
        Registry().workflow(fn)


@pytest.mark.parametrize("fn", [lambda: 1, functools.partial(ship, "x")])
def test_what_has_no_name_needs_one(fn: Any) -> None:
    with pytest.raises(DefinitionError, match="no name"):
        Registry().task(fn)
    with pytest.raises(DefinitionError, match="no name"):
        name_of(fn)
    registry = Registry()
    assert name_of(registry.task(fn, "named")) == "named"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "\x7f"])
def test_unusable_names_are_refused(name: str) -> None:
    def work() -> None: ...

    with pytest.raises(DefinitionError, match="1 to 255 characters"):
        Registry().task(work, name)
    with pytest.raises(DefinitionError, match="1 to 255 characters"):
        name_of(name)


def test_generators_are_no_tasks() -> None:
    def counting() -> Any:
        yield 1

    with pytest.raises(DefinitionError, match="generator"):
        Registry().task(counting)


def test_a_wrapper_does_not_inherit_the_registration_of_what_it_wraps() -> None:
    def work() -> None: ...

    Registry().task(work, "inner")

    @functools.wraps(work)
    def wrapper() -> None: ...

    assert definition_of(wrapper) is None
    assert name_of(wrapper) == "work"


def test_steps_are_named_by_their_qualified_name() -> None:
    def local() -> None: ...

    assert step_name_of(local) == "test_steps_are_named_by_their_qualified_name.local"
    assert step_name_of(ship) == "ship"
    assert step_name_of(functools.partial(ship, "x")) == "ship"
    assert step_name_of("abc".upper) == "str.upper"


def test_return_hints_are_resolved_and_any_if_they_cannot_be() -> None:
    assert Registry().workflow(order).returns is str
    assert Registry().task(ship).returns is int

    def unknown() -> int: ...  # pyright: ignore[reportReturnType]

    unknown.__annotations__["return"] = "Nowhere"
    assert returns_of(unknown) is Any
    assert returns_of(len) is Any


def test_a_function_that_was_registered_nowhere_is_refused_as_its_call_would_wait_for_ever() -> None:
    def plain() -> None: ...

    here, there = Registry(), Registry()
    with pytest.raises(DefinitionError, match=r"plain is not registered: put @app\.task"):
        here.check_registered(plain)
    with pytest.raises(DefinitionError, match=r"builtins\.len is not registered"):
        here.check_registered(len)
    for known in ("plain", Registry().names):
        here.check_registered(known)
    there.task(plain)
    here.check_registered(plain)  # another application's, such as that of the worker
    here.task(len)
    here.check_registered(len)


def test_a_task_gets_no_context_and_another_library_may_have_a_class_of_that_name() -> None:
    def early(ctx: Context, n: int) -> None: ...

    def exact(context: decimal.Context) -> None: ...

    with pytest.raises(DefinitionError, match="task 'early' has a Context, 'ctx', but only a workflow gets one"):
        Registry().task(early)
    Registry().task(exact)
