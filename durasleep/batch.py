"""``Batch``: a task whose function is called once for many executions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, get_args, get_origin

from durasleep.errors import DefinitionError, UsageError
from durasleep.model import shown
from durasleep.signatures import signature_of

SIZE_MAX = 10_000
WAIT_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Batch:
    """How a worker gathers executions, to call a function once for all of them::

        @app.task(batch=Batch(size=100, wait_s=0.2))
        async def insert(rows: list[Row]) -> list[int]: ...

        handle = await app.rpc("row-7", insert, row)

    Each execution has one argument and a result of its own: the function gets a list of arguments, and returns a list
    of results in the same order. Where an error stands in that list, only this execution fails; an error that the
    function raises is that of all. Each is retried and committed alone. UsageError for values that cannot be.
    """

    size: int = 100
    """At most so many; a worker gathers no more than it has slots."""
    wait_s: float = 0.2
    """How long the first one waits for others, in seconds."""

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= SIZE_MAX:
            raise UsageError(f"batch size {shown(self.size)}: give a whole number from 1 to {SIZE_MAX:,}")
        wait_s: Any = self.wait_s
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s <= WAIT_S_MAX:
            raise UsageError(f"batch wait_s {shown(self.wait_s)}: give seconds from 0 to {WAIT_S_MAX:g}")


@dataclass(frozen=True, slots=True)
class BatchFunction:
    """A function that is called with lists, and how they are gathered."""

    batch: Batch
    fn: Callable[..., Any]


def function_of_one(fn: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    """A function of one argument and one result, made of one with a list of each, whose type ``hints`` these are.

    It has the same name, and calls the other one with a list of one. DefinitionError if that takes no single list.
    """
    parameters = list(signature_of(fn).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in kinds:
        raise DefinitionError(f"{fn!r} cannot be called for a batch: it takes one argument, a list")

    async def call_async(item: Any) -> Any:
        return one_of(await fn([item]), fn)

    def call(item: Any) -> Any:
        return one_of(fn([item]), fn)

    made = call_async if inspect.iscoroutinefunction(fn) else call
    made.__name__, made.__qualname__, made.__module__ = fn.__name__, fn.__qualname__, fn.__module__
    made.__doc__ = fn.__doc__
    made.__annotations__ = {
        name: element
        for name, hint in (("item", hints.get(parameters[0].name)), ("return", hints.get("return")))
        if (element := _element_of(hint)) is not None
    }
    return made


def _element_of(hint: Any) -> Any:
    """The type of the elements of a list; None if it is not known."""
    arguments = get_args(hint)
    is_list = get_origin(hint) is not None and len(arguments) == 1
    return arguments[0] if is_list else None


def results_of(found: Any, count: int, fn: Callable[..., Any]) -> list[Any]:
    """The results of a batch; UsageError if they are not as many as its items."""
    results: list[Any] | None = [*found] if isinstance(found, list | tuple) else None
    if results is not None and len(results) == count:
        return results
    what = f"a {type(cast('object', found)).__name__}" if results is None else f"{len(results)} results"
    raise UsageError(f"{fn.__name__} was called for a batch of {count}, and returned {what}: return a list of {count}")


def one_of(found: Any, fn: Callable[..., Any]) -> Any:
    """The only result of a batch of one; raises it if it is an error."""
    [result] = results_of(found, 1, fn)
    if isinstance(result, BaseException):
        raise result
    return result
