"""One word for one idea: old names do not come back, and words of the glossary have one meaning."""

from __future__ import annotations

import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import durasleep
from durasleep import Codec, Context, Description, Durasleep, errors, testing
from durasleep.client import Client
from durasleep.model import PromiseId
from durasleep.runtime.context import ExecutionInfo
from durasleep.sync import Client as SyncClient
from durasleep.testing import Env, SyncEnv

PACKAGE = Path(durasleep.__file__).parent
ROOT = Path(__file__).parents[2]
THIS = str(Path(__file__).relative_to(ROOT))

GIVEN_UP = {
    "Detached": "WorkflowEvicted",
    "detach": "evict",
    "put_aside": "quarantine",
    "give_back": "release",
    "Expected": "Subscription",
    "Ending": "PromiseStatus or WorkflowOutcome",
    "Outcome": "CommitAction",
    "Head": "PromiseRecord",
    "Item": "BatchItem",
    "value_of": "unwrap",
    "talk": "exchange_plan",
    "Names": "IdSource",
    "Running": "HeldExecution",
    "Kept": "CachedWorkflow",
    "KeptWorkflows": "WorkflowCache",
    "plainly": "call_outside_task",
    "UserCode": "FunctionRunner",
    "Lines": "LogSampler",
    "Story": "ExecutionLog",
    "load_news": "load_unseen",
    "asked_number": "last_op_number",
    "Lineage": "CallNumbers",
    "keep_for_ever": "leak_coroutine",
    "birth": "incarnation",
    "Found": "SearchPage",
    "Reader": "TaskReader",
    "Listener": "HintListener",
    "Firer": "TimerFirer",
    "deaths": "crash_count",
    "steer": "control",
    "is_off": "is_abandoned",
    "GiveBack": "ReleaseLease",
    "expect": "subscribe",
}
"""Old names, and the names that replace them."""

VERBS = re.compile(r"_*(tell|hear|say)(_\w+)?")
"""Names of functions that notify, observe or log, by their old verbs."""

MEANINGS: dict[str, tuple[str, str]] = {
    "place": (
        r"runtime/|transport/|client/|cli/|app",
        "a place is where a pending execution is: no index, and no call site",
    ),
    "head": (r"protocol/script|protocol/membership", "arguments that all items share are no head"),
    "hint": (r"codec/(?!codec\.py)|runtime/|query/", "a hint is a wake-up; of a type it is a type_hint"),
    "hints": (r"codec/|runtime/", "hints are wake-ups; of types they are type_hints"),
}
"""Words with one meaning: the modules in which an identifier of this name would mean something else, and why."""


STILL = {
    ("runtime/context.py", "birth"),
    ("runtime/context.py", "deaths"),
    ("query/describe.py", "deaths"),
    ("codec/values.py", "tell"),
}
"""Old names that users may still use, until the next release; and where msgpack says which byte it has come to."""


def identifiers(text: str) -> Iterator[tuple[str, int]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.string, token.start[0]


def strays(path: str, text: str) -> list[str]:
    """Identifiers of a module that are old names, or words of the glossary with another meaning."""
    found: list[str] = []
    for name, line in identifiers(text):
        word = name.lstrip("_")
        if (path, word) in STILL:
            continue
        if word in GIVEN_UP:
            found.append(f"{path}:{line}: {name} is called {GIVEN_UP[word]}")
        elif VERBS.fullmatch(name):
            found.append(f"{path}:{line}: {name}: say notify, observe or log")
        elif word in MEANINGS and re.match(MEANINGS[word][0], path):
            found.append(f"{path}:{line}: {name}: {MEANINGS[word][1]}")
    return found


def test_the_package_says_each_thing_by_its_one_name() -> None:
    modules = {str(one.relative_to(PACKAGE)): one.read_text() for one in PACKAGE.rglob("*.py")}
    found = [stray for path, text in sorted(modules.items()) for stray in strays(path, text)]
    assert found == []


OF_OTHERS = {"Item"}
"""An item of pytest."""


@pytest.mark.parametrize("folder", ["tests", "harness", "scripts", "examples"])
def test_what_surrounds_the_package_says_it_by_the_same_name(folder: str) -> None:
    modules = {f"{one.relative_to(ROOT)}": one.read_text() for one in (ROOT / folder).rglob("*.py")}
    found = [stray for path, text in sorted(modules.items()) for stray in strays(path, text) if path != THIS]
    assert [one for one in found if one.split()[1] not in OF_OTHERS] == []


def test_the_scripts_say_it_by_the_same_name() -> None:
    given_up = re.compile(r"\b(birth|deaths|put_aside|give_back|load_news|news|(?:tell|hear|say)(?:_\w+)?)\b")
    code = {script.name: re.sub(r"--.*", "", script.read_text()) for script in PACKAGE.rglob("*.lua")}
    assert {name: found for name, text in code.items() if (found := given_up.findall(text))} == {}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("worker/x.py", "ending = Ending()"),
        ("runtime/journal.py", "place = 3"),
        ("codec/shapes.py", "def shape(value, hint): ..."),
        ("protocol/membership.py", "head = lua.shared_args()"),
    ],
)
def test_a_stray_is_found(path: str, text: str) -> None:
    assert len(strays(path, text)) == 1


def test_a_word_may_stand_in_prose_and_where_it_has_its_meaning() -> None:
    assert strays("worker/x.py", '"""The place, the head, a hint."""\nplace = hint = 1  # birth') == []


# -- old names


@pytest.mark.parametrize(
    ("module", "name", "new"), [(errors, "Detached", "WorkflowEvicted"), (testing, "Timer", "DueItem")]
)
def test_an_old_name_of_a_module_works_and_warns(module: object, name: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} is called {new}") as caught:
        assert getattr(module, name) is getattr(module, new)
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(module, "nothing")  # noqa: B009 - as a checker would not let us


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (Env, "settle", "run_until_idle"),
        (SyncEnv, "settle", "run_until_idle"),
        (Client, "forget", "discard_quarantined"),
        (SyncClient, "forget", "discard_quarantined"),
        (Context, "detaching", "evicting"),
        (Description, "deaths", "crash_count"),
    ],
)
async def test_an_old_name_of_a_class_does_what_the_new_one_does_and_warns(
    kind: type[Any], old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, one = getattr(kind, new, None), object.__new__(kind)

    async def answer_later(*_: object) -> str:
        return "the answer"

    def answer(*_: object) -> str:
        return "the answer"

    if inspect.iscoroutinefunction(found):
        monkeypatch.setattr(kind, new, answer_later)
    elif callable(found):
        monkeypatch.setattr(kind, new, answer)
    else:
        monkeypatch.setattr(kind, new, property(answer))

    async def ask() -> object:
        told = getattr(one, old)
        if callable(told):
            told = told("a name") if old == "forget" else told()
        return await told if inspect.isawaitable(told) else told

    with pytest.warns(DeprecationWarning, match=f"{old} is called .*{new}") as caught:
        told = await ask()
    assert told == "the answer"
    assert caught[0].filename == __file__


def test_the_old_names_of_what_a_workflow_knows_of_itself_work_and_warn() -> None:
    info = ExecutionInfo(
        id=PromiseId("a"), root_id=PromiseId("a"), function="f", group="g", incarnation=7, created_ms=8, crash_count=2
    )
    with pytest.warns(DeprecationWarning, match=r"ctx\.info\.birth is called ctx\.info\.incarnation"):
        assert info.birth == 7
    with pytest.warns(DeprecationWarning, match=r"ctx\.info\.deaths is called ctx\.info\.crash_count"):
        assert info.deaths == 2


def test_an_old_name_of_an_option_works_and_warns() -> None:
    app = Durasleep("redis://localhost:1")
    with pytest.warns(DeprecationWarning, match="hint is called type_hint"):
        assert app.get("a", hint=int)._type_hint is int
    codec = Codec()
    with pytest.warns(DeprecationWarning, match="hint is called type_hint"):
        assert codec.decode(codec.encode((1, 2), "a pair"), hint=tuple[int, int]) == (1, 2)
    with pytest.warns(DeprecationWarning, match="stand_ins is called overrides"):
        app.worker(stand_ins={})
