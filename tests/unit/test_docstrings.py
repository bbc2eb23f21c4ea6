"""Everything users call tells what it does, and names each of its parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import durasleep
import durasleep.sync
import durasleep.testing

KNOWN = {"self", "cls", "args", "kwargs", "fn", "id", "exc"}
"""Parameters that need no word: what is called, with what, and under which id."""

REFERS = re.compile(r"\b[Aa]s ``|\b[Ss]ee ``|\b[Ss]ame\b|\bold name\b")
"""A docstring may send its reader to the one that tells."""


def exported() -> Iterator[tuple[str, Any]]:
    """What users import, by its name."""
    for name in durasleep.__all__:
        yield f"durasleep.{name}", getattr(durasleep, name)
    for module in (durasleep.sync, durasleep.testing):
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", "").startswith(("durasleep.client.sync", module.__name__))
            if is_own and not name.startswith("_"):
                yield f"{module.__name__}.{name}", value


def callables() -> dict[str, Any]:
    """What users call: functions, classes, and the public methods and properties of these."""
    found: dict[str, Any] = {}
    for name, value in exported():
        if not callable(value):
            continue
        found[name] = value
        for kind in value.__mro__ if inspect.isclass(value) else ():
            if not kind.__module__.startswith("durasleep"):
                continue
            for member, what in vars(kind).items():
                function = what.fget if isinstance(what, property) else getattr(what, "__func__", what)
                if not member.startswith("_") and inspect.isfunction(function):
                    found.setdefault(f"{name}.{member}", function)
    return found


CALLABLES = callables()


def untold(value: Any) -> list[str]:
    """The parameters its docstring does not name."""
    told = inspect.getdoc(value) or ""
    if inspect.isclass(value) or REFERS.search(told):
        return []
    names = [name for name in inspect.signature(value).parameters if name not in KNOWN and not name.startswith("_")]
    return [name for name in names if not re.search(rf"\b{name}\b", told)]


@pytest.mark.parametrize("name", CALLABLES)
def test_it_says_what_it_does_and_names_its_parameters(name: str) -> None:
    value = CALLABLES[name]
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    assert untold(value) == []


def test_what_is_not_told_is_found() -> None:
    def told(limit: int, other: int) -> None:
        """At most ``limit``."""

    assert untold(told) == ["other"]
    assert len(CALLABLES) > 150
    assert {"durasleep.Context.sleep", "durasleep.sync.Client.rpc", "durasleep.testing.Env.skip"} <= CALLABLES.keys()
