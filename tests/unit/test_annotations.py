"""Since Python 3.14 an annotation may name what is only imported for type checkers, without quotes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from durasleep.batch import function_of_one
from durasleep.codec import Codec
from durasleep.codec.type_hints import type_hints_of
from durasleep.errors import UsageError
from durasleep.runtime.definition import Registry, check_arguments, returns_of
from tests.unit.runtime_world import World

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="before, such an annotation is an error by itself")

MODULE = """
from dataclasses import dataclass
from typing import TYPE_CHECKING
from durasleep import Context

if TYPE_CHECKING:
    from orders import Order

async def fulfil(ctx: Context, order: Order, count: int = 1) -> list[Later]:
    return [Later(count)]

async def handle(ctx: Checked, order: Order) -> None: ...

def charge(orders: list[Order]) -> list[int]:
    return [1 for _ in orders]

@dataclass
class Later:
    count: int
    order: Order | None = None
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = ModuleType("orders_of_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    exec(compile(MODULE, __file__, "exec", dont_inherit=True), vars(made))
    return made


def test_such_a_workflow_is_registered_and_runs_and_its_result_has_its_type(module: Any) -> None:
    Registry().workflow(module.fulfil)
    hints = type_hints_of(module.fulfil)
    assert hints["count"] is int
    assert "order" not in hints
    assert returns_of(module.fulfil) == list[module.Later]
    codec = Codec()
    payload = codec.encode([module.Later(3)], "it")
    assert codec.decode(payload, type_hint=returns_of(module.fulfil)) == [module.Later(3)]

    async def calling(ctx: Any) -> Any:
        return await module.fulfil(ctx, None, 2)

    assert World(calling).play().outcome is not None


def test_the_first_parameter_of_a_workflow_is_still_looked_at(module: Any) -> None:
    with pytest.raises(Exception, match="has no context"):
        Registry().workflow(module.handle)


def test_such_a_function_can_be_batched_and_its_arguments_are_counted(module: Any) -> None:
    charge: Callable[..., Any] = module.charge
    Registry().task(function_of_one(charge, type_hints_of(charge)))
    check_arguments(charge, [[]], {})
    with pytest.raises(UsageError, match="missing a required argument"):
        check_arguments(charge, [], {})
