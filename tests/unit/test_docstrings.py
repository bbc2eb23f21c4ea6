"""Everything that users call says what it does, and names each of its parameters."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import durasleep
import durasleep.sync
import durasleep.testing

KNOWN = {"self", "cls", "args", "kwargs", "fn", "id", "exc"}
"""Parameters that need no explanation: the function, its arguments, and its id."""

REFERS = re.compile(r"\b[Aa]s (for |in |with )?``|\b[Ss]ee ``\w+`` of\b|\b[Tt]he same (as|for)\b|^The old name of ``")
"""A docstring may refer to another one that explains."""


def exported() -> Iterator[tuple[str, Any]]:
    """The names that users import."""
    for name in durasleep.__all__:
        yield f"durasleep.{name}", getattr(durasleep, name)
    for module in (durasleep.sync, durasleep.testing):
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", "").startswith(("durasleep.client.sync", module.__name__))
            if is_own and not name.startswith("_"):
                yield f"{module.__name__}.{name}", value


def callables() -> dict[str, Any]:
    """What users call: functions, classes, and the public methods and properties of classes."""
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


def is_made_by_users(kind: type[Any]) -> bool:
    """Classes that only we make need no word on how; the fields of others are told one by one, where they stand."""
    return kind in (durasleep.Durasleep, durasleep.sync.Client, durasleep.Codec, durasleep.Retry)


def untold(value: Any) -> list[str]:
    """The parameters that its docstring does not name."""
    told = inspect.getdoc(value) or ""
    if REFERS.search(told) or (inspect.isclass(value) and not is_made_by_users(value)):
        return []
    names = [name for name in inspect.signature(value).parameters if name not in KNOWN and not name.startswith("_")]
    return [name for name in names if not re.search(rf"\b{name}\b", told)]


@pytest.mark.parametrize("name", CALLABLES)
def test_it_says_what_it_does_and_names_its_parameters(name: str) -> None:
    value = CALLABLES[name]
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    assert untold(value) == []


def examples(value: Any) -> list[str]:
    """The code in its docstring: what is indented after a line that ends with two colons."""
    lines = (inspect.getdoc(value) or "").splitlines()
    found: list[str] = []
    for at, line in enumerate(lines):
        if line.endswith("::"):
            rest = itertools.takewhile(lambda one: not one or one.startswith(" "), lines[at + 1 :])
            found.append(textwrap.dedent("\n".join(rest)))
    return found


CALLED: dict[str, Any] = {"app": durasleep.Durasleep, "client": durasleep.sync.Client, "ctx": durasleep.Context}
EXAMPLES = {name: code for name, value in CALLABLES.items() for code in examples(value)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_code_that_calls_what_there_is(name: str) -> None:
    code = compile(EXAMPLES[name], name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in CALLED:
            assert hasattr(CALLED[node.value.id], node.attr) or node.attr == "promises", ast.unparse(node)


@pytest.mark.parametrize("method", ["rpc", "rpc_many", "start", "options", "schedule", "search"])
def test_what_every_user_calls_has_an_example_async_and_sync(method: str) -> None:
    [own] = examples(getattr(durasleep.Durasleep, method))
    [sync] = examples(getattr(durasleep.sync.Client, method))
    assert "app." in own
    assert sync == own.replace("await ", "").replace("app.", "client.")


def test_what_is_not_told_is_found() -> None:
    def told(limit: int, other: int) -> None:
        """At most ``limit``."""

    assert untold(told) == ["other"]
    assert len(CALLABLES) > 150
    assert {"durasleep.Context.sleep", "durasleep.sync.Client.rpc", "durasleep.testing.Env.skip"} <= CALLABLES.keys()
