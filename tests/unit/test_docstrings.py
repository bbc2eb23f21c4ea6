"""Everything that users call says what it does, and names its parameters and errors; every field is described."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import durasleep
import durasleep.sync
import durasleep.testing
from durasleep import NotAllowed, NotFound, errors
from durasleep.model import Recording
from durasleep.protocol.promises import Controlled
from durasleep.query.call_tree import Tree
from durasleep.query.doctor import Diagnosis
from durasleep.query.fsck import Report
from durasleep.query.search import DueItem, SearchPage, Summary, Timers
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.recording import Verdict

PACKAGE = Path(durasleep.__file__).parent

ANSWERS = (
    Controlled,
    Diagnosis,
    DueItem,
    ExecutionInfo,
    Recording,
    Report,
    SearchPage,
    Summary,
    Timers,
    Tree,
    Verdict,
)
"""Classes that users do not import, but get as answers."""

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
    for kind in ANSWERS:
        yield f"{kind.__module__}.{kind.__name__}", kind


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
    """Classes that only we make need no word on how. Their fields are described one by one, where they stand."""
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


# -- fields


def records() -> dict[str, Any]:
    """The dataclasses and structs among the exported classes, and those in their fields."""
    found: dict[str, Any] = {}
    left = [value for _, value in exported() if inspect.isclass(value)]
    while left:
        kind = left.pop()
        if not kind.__module__.startswith("durasleep") or kind.__name__ in found:
            continue
        if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct):
            found[kind.__name__] = kind
            parts = [(hint, *typing.get_args(hint)) for hint in typing.get_type_hints(kind).values()]
            left += [part for part in itertools.chain(*parts) if inspect.isclass(part)]
    return found


RECORDS = records()


def undescribed(kind: Any) -> list[str]:
    """The public fields that have no docstring of their own, and are not named in that of their class."""
    [body] = [
        one.body for one in ast.parse(textwrap.dedent(inspect.getsource(kind))).body if isinstance(one, ast.ClassDef)
    ]
    told = inspect.getdoc(kind) or ""
    found: list[str] = []
    for one, after in itertools.pairwise([*body, ast.Pass()]):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            has_own = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not has_own and f"``{one.target.id}``" not in told:
                found.append(one.target.id)
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_each_field_is_described(name: str) -> None:
    assert undescribed(RECORDS[name]) == []


def test_the_fields_of_all_that_users_get_are_looked_at() -> None:
    assert {
        "Description",
        "Pending",
        "FailedAttempt",
        "Node",
        "Finding",
        "Settings",
        "Winner",
        "Entry",
    } <= RECORDS.keys()


# -- errors

ERRORS = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DurasleepError)
}


@functools.cache
def source(function: Callable[..., Any]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))


def raised(function: Callable[..., Any], owner: type[Any] | None, *, deeper: bool = True) -> set[str]:
    """The errors of ours that a function raises, and those that functions of ours raise that it calls directly."""
    found: set[str] = set()
    known = getattr(inspect.unwrap(function), "__globals__", {})
    for node in ast.walk(source(function)):
        called: Any = None
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name)) | ast.Name(id=name)) if name in ERRORS:
                found.add(name)
            case ast.Call(func=ast.Name(id=name)):
                called = known.get(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                called = getattr(owner, name, None)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if inspect.ismodule(
                known.get(module)
            ):
                called = getattr(known[module], name)
            case _:
                pass
        if deeper and inspect.isfunction(called) and called.__module__.partition(".")[0] in ("durasleep", "tests"):
            found |= raised(called, owner, deeper=False)
    return found


def unnamed(function: Callable[..., Any], owner: type[Any] | None = None) -> set[str]:
    """The errors that neither its docstring nor that of its class names, by their class or one above it."""
    own = inspect.getdoc(function) or ""
    if REFERS.search(own):
        return set()
    told = "\n".join([own, *(inspect.getdoc(kind) or "" for kind in (owner.__mro__ if owner else ()))])
    return {
        name
        for name in raised(function, owner)
        if not any(
            re.search(rf"\b{kind.__name__}s?\b", told) for kind in ERRORS[name].__mro__ if kind in ERRORS.values()
        )
    }


def owner_of(name: str) -> type[Any] | None:
    """The class of a method, by its name in ``CALLABLES``."""
    owner = CALLABLES.get(name.rpartition(".")[0])
    return owner if inspect.isclass(owner) else None


@pytest.mark.parametrize("name", CALLABLES)
def test_it_names_the_errors_that_it_raises(name: str) -> None:
    value = CALLABLES[name]
    if inspect.isfunction(value):
        assert unnamed(value, owner_of(name)) == set()
    elif is_made_by_users(value):
        made: Callable[..., Any] = getattr(value, "__post_init__", value.__init__)
        assert unnamed(made, value) == set()


CLIENTS = (durasleep.Durasleep, durasleep.sync.Client)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_names_the_errors_of_every_call(kind: type[Any]) -> None:
    for name in ("StoreError", "StoreUnavailable", "StoreRefused", "InvalidId"):
        assert name in (inspect.getdoc(kind) or "") + (inspect.getdoc(kind.__base__) or "")


ASKS = ("describe", "export", "tree", "cancel", "halt", "resume", "retry", "wake", "reschedule")


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("method", ASKS)
def test_what_asks_for_an_id_says_what_happens_without_it(kind: type[Any], method: str) -> None:
    assert "NotFound" in (inspect.getdoc(getattr(kind, method)) or "")


# -- the words of control

CONTROL = (PACKAGE / "protocol" / "lua" / "control.lua").read_text()
VERBS = {
    "wake": ("wake",),
    "reschedule": ("reschedule",),
    "cancel": ("cancel", "force"),
    "halt": ("halt",),
    "resume": ("resume",),
    "retry": ("retry",),
}
"""What a client calls, and the actions of the script behind it."""

NOT_ANSWERED = {"asleep", "closing"}
"""Words of the script that ask the client to call again."""


def words_of(action: str) -> set[str]:
    """The words that the script may answer to an action."""
    [body] = re.findall(rf"(?ms)^function actions\.{action}\(.*?^end$", CONTROL)
    found = re.findall(r"\{ '(\w+)', |'(canceled while \w+|canceled)'", body)
    return {one or other for one, other in found} - NOT_ANSWERED


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_verb_names_the_words_that_it_answers(kind: type[Any], verb: str) -> None:
    words = set[str]().union(*map(words_of, VERBS[verb]))
    told = inspect.getdoc(getattr(kind, verb)) or ""
    assert len(words) > 1
    assert {word for word in words if f"``{word}``" not in told} == set()
    assert "NotAllowed" in told


def test_every_word_is_explained_where_it_is_a_field() -> None:
    words = set[str]().union(*(words_of(action) for actions in VERBS.values() for action in actions))
    told = inspect.getsource(Controlled)
    assert {word for word in words if f"``{word}``" not in told} == set()


def test_the_words_that_are_not_answered_are_those_that_the_client_looks_for() -> None:
    asked = re.findall(r'word [!=]= "(\w+)"', (PACKAGE / "query" / "control.py").read_text())
    assert set(asked) == NOT_ANSWERED


# -- the tree of errors


def test_every_error_stands_in_the_tree() -> None:
    tree = inspect.getdoc(errors) or ""
    for name, kind in ERRORS.items():
        assert re.search(rf"^[│ ├└─]*{name}\b", tree, re.MULTILINE), name
        if kind is not errors.DurasleepError:
            assert depth(tree, name) == depth(tree, kind.__bases__[0].__name__) + 1


def depth(tree: str, name: str) -> int:
    """How far to the right an error stands in the drawn tree."""
    [indent] = re.findall(rf"^([│ ├└─]*){name}\b", tree, re.MULTILINE)
    return len(indent) // 4


# -- examples


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

    @dataclasses.dataclass
    class Told:
        one: int
        """The first."""
        other: int

    assert undescribed(Told) == ["other"]

    def cannot() -> None:
        """Raises NotFound."""
        missing(is_allowed=True)

    assert unnamed(cannot) == {"NotAllowed"}


def missing(*, is_allowed: bool) -> None:
    if is_allowed:
        raise NotFound("nothing")
    raise NotAllowed("this")
    assert len(CALLABLES) > 150
    assert {"durasleep.Context.sleep", "durasleep.sync.Client.rpc", "durasleep.testing.Env.skip"} <= CALLABLES.keys()
