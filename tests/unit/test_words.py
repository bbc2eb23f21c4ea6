"""One word for one idea: old names do not come back, and words of the glossary have one meaning."""

from __future__ import annotations

import inspect
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import durasleep
from durasleep import Context, Description, Durasleep, errors, testing
from durasleep.client import Client
from durasleep.model import PromiseId
from durasleep.query.search import DueItem
from durasleep.runtime.context import ExecutionInfo
from durasleep.sync import Client as SyncClient
from durasleep.testing import Env, SyncEnv

PACKAGE = Path(durasleep.__file__).parent
ROOT = Path(__file__).parents[2]
CHANGELOG = "docs/reference/changelog.md"
THIS = str(Path(__file__).relative_to(ROOT))

# -- the table


@dataclass(frozen=True, slots=True)
class Row:
    """Words that were given up; each of the first three is a regular expression."""

    new: str
    """The names that say it now; each of them is a name in the package."""
    names: str = ""
    """Identifiers in Python, Cython and Lua, without underscores in front."""
    code: str = ""
    """Pieces of code, anywhere, also in prose about it."""
    words: str = ""
    """Words in anything: docs, docstrings, comments and messages, too."""
    where: str = ""
    """The files in which the row holds, by the beginning of their paths; all of them by default."""
    is_variable: bool = False
    """Whether ``names`` are those of variables only, and not of attributes."""


ROWS = (
    Row("WorkflowEvicted evict evicting", "[Dd]etach|detaching|Detached", words=r"\bdetach(?:es)?\b"),
    Row("quarantine", r"\w*aside\w*", words=r"\b(?:put|puts|putting) (?:\w+ )?aside\b"),
    Row("discard_quarantined", code=r"\b(?:client|app)\.forget\b"),
    Row("on_settlement notify_all log_sampler", "(?:tell|hear|say)(?:_[a-z]\\w*)?", where=r".*\.(?:py|pxd|lua)$"),
    Row("report recovered", code=r"\boutage\.(?:say|end)\b"),
    Row("observe accept_next seed", r"\w*believe[sd]?(?:_\w+)?", r"\bclock\.(?:hear|begin)\("),
    Row("Subscription subscribe", "Expected|expect"),
    Row("PromiseStatus WorkflowOutcome", "Ending"),
    Row("CommitAction", "Outcome"),
    Row("PromiseRecord", "Head"),
    Row("shared_args", "heads?", where=r"durasleep/protocol/(?:script|membership|command)"),
    Row("BatchItem", "Item"),
    Row("unwrap exchange_plan", "value_of|talk", where=r".*\.py$"),
    Row("Asked open_parts", "Waiting|Several|OneOfSeveral|is_off", where="durasleep/transport/"),
    Row("idempotency_key", code=r"\bcall=", where="durasleep/(?:protocol|client)/"),
    Row("IdSource", "Names"),
    Row("HeldExecution ActiveWorkflow", "Running|Driven"),
    Row("CachedWorkflow WorkflowCache", "Kept|KeptWorkflows"),
    Row("release", "GiveBack|gives?_back"),
    Row("release", words=r"\bgiv(?:e|es|ing|en) (?:it|them|leases|entries|a lease|the lease) back\b"),
    Row("call_outside_task", "plainly"),
    Row("FunctionRunner overrides", "UserCode|stand_ins", words=r"\bstand-ins?\b"),
    Row("LogSampler allow", "Lines"),
    Row("allow", "has_room", where="durasleep/worker/"),
    Row("ExecutionLog", "[Ss]tory|[Ss]tories|STORY|STORIES"),
    Row("commit", code=r"\bcommits\.(?:one|of)\("),
    Row("load_unseen has_unseen", "load_news|has_news|news|NEWS"),
    Row("last_op_number", "asked_number"),
    Row("CallNumbers", r"\w*lineages?", words=r"\blineages?\b"),
    Row("replaying is_shadow has_history", "quiet|silent|passed|speaks?", where="durasleep/runtime/"),
    Row("replaying is_shadow has_history end_replay", code=r"\bloop\.(?:quiet|silent|passed|speak)\b"),
    Row("_fill_before", "halves", where="durasleep/"),
    Row("run_with_cleanup leak_coroutine", "to_its_end|keep_for_ever"),
    Row("incarnation", r"(?:\w+_)?births?(?:_\w+)?"),
    Row("crash_count", "deaths"),
    Row("control", r"\w*steer\w*", words=r"\bsteer\w*"),
    Row("DueItem", "Timer", where="durasleep/(?:query|testing)"),
    Row("SearchPage", "Found"),
    Row("status", "look", r"\b(?:client|app)\.look\(", where="durasleep/(?:client/(?:client|sync)|app)\\.py"),
    Row("collect_facts", "look", r"\bdoctor\.look\(", where="durasleep/query/"),
    Row("run_until_idle", code=r"\benv\.settle\("),
    Row("second_connection", "[Bb]eside"),
    Row("fsck", words=r"\bcheck\.lua\b"),
    Row("TaskReader HintListener TimerFirer", "Reader|Listener|Firer"),
    # verbs that only we understood
    Row("discard_one", "strike|struck", where=r".*\.py$"),
    Row("offer_again", r"\w*(?:turn|turned|turning)_away(?:_waiting)?", where="durasleep/"),
    Row("notify on_settlement", r"(?:\w+_)?nudge[sd]?(?:_all)?", words=r"\bnudg(?:e|es|ed|ing)\b"),
    Row("close", "put_away"),
    Row("urgent UrgentWaits", "[Hh]urry|hurries"),
    Row("leaked", "[Ss]tubborn|STUBBORN", where="durasleep/"),
    Row("repaired", "mend(?:s|ed)?", where=r".*\.py$"),
    # words with one meaning
    Row("index", "places?", where="durasleep/(?!model|testing|protocol|query)", is_variable=True),
    Row("index", "places?", where="tests/(?:model/(?:explore|workers)|worker|unit)|harness/", is_variable=True),
    Row("type_hint", "hints?", where="durasleep/(?:codec|runtime|query)/|tests/unit/test_codec"),
)
"""The glossary's other side. A place is where a pending execution is; a hint is a wake-up; a head is no prefix."""

PATHS = ("cli/steering.py", "cli/control.py", "protocol/lua/check.lua", "protocol/lua/load.lua")
"""Files of the package that have other names now."""

STILL = {
    ("durasleep/runtime/context.py", "birth"),
    ("durasleep/runtime/context.py", "deaths"),
    ("durasleep/runtime/context.py", "detaching"),
    ("durasleep/query/describe.py", "deaths"),
    ("durasleep/app.py", "stand_ins"),
    ("durasleep/codec/codec.py", "hint"),
}
"""Old names that users may still use, until the next release."""

ACROSS_PARTITIONS = (
    "durasleep/protocol/foreign.py",
    "durasleep/protocol/timers.py",
    "durasleep/protocol/lua/fsck/timer.lua",
    "durasleep/protocol/lua/hear.lua",
    "durasleep/worker/loops/relay.py",
    "tests/model/both.py",
    "tests/store/test_foreign.py",
    "tests/store/test_schedule.py",
    "tests/model/moves.py",
    "tests/model/workers.py",
    "tests/model/test_scripts_follow_the_model.py",
)
"""Where an execution asks another partition, and is told its answer."""
OF_OTHERS = {
    ("durasleep/codec/values.py", "tell"),  # where msgpack says which byte it has come to
    ("durasleep/protocol/lua/schedule.lua", "aside"),  # the name of a field in Redis
    ("durasleep/protocol/lua/fsck.lua", "aside"),
    ("tests/unit/test_adoption.py", "place"),  # the name of a field in Redis
    ("docs/operate/metrics.md", "durasleep_put_aside"),  # a metric, named before the word changed
    ("docs/operate/troubleshooting.md", "aside"),  # a kind of finding, in ``fsck --json``
    *((file, word) for file in ACROSS_PARTITIONS for word in ("tell", "tell_all", "hear")),
}
"""Names that are not ours to choose, or that mean something else there."""

# -- the check


def texts() -> Iterator[tuple[str, str]]:
    """Everything that people read: paths from the root, and texts. The package may be installed elsewhere."""
    for folder in (PACKAGE, *[ROOT / name for name in ("tests", "harness", "scripts", "examples", "docs")]):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".pxd", ".lua", ".md", ".toml", "") and path.is_file():
                yield f"{folder.name}/{path.relative_to(folder).as_posix()}", path.read_text()
    yield "README.md", (ROOT / "README.md").read_text()


def identifiers(path: str, text: str) -> Iterator[tuple[str, int]]:
    """The names in the code of a file, with their lines; an attribute has its dot in front."""
    if path.endswith(".py"):
        before = ""
        for token in tokenize.generate_tokens(io.StringIO(text.replace("pytest.Item", "pytest.item")).readline):
            if token.type == tokenize.NAME:
                yield "." * (before == ".") + token.string, token.start[0]
            before = token.string
    elif path.endswith((".lua", ".pxd", ".md")):
        is_code = not path.endswith(".md")
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("```"):
                is_code = not is_code
            code = re.sub(r"--.*|#\s.*|'[^']*'", "", line)
            for part in [code] if is_code else re.findall(r"`([^`]+)`", line):
                yield from ((name, number) for name in re.findall(r"\.?[A-Za-z_]\w*", part))


def strays(path: str, text: str) -> list[str]:
    """Where a file uses a word that was given up, with the names that say it now."""
    rows = [row for row in ROWS if re.match(row.where, path)]
    named = [
        (re.compile(rf"_*(?:{row.names})" if row.is_variable else rf"[._]*(?:{row.names})"), row)
        for row in rows
        if row.names
    ]
    found: list[str] = []
    for name, lines in _by_name(identifiers(path, text)).items():
        if (path, name.lstrip("._")) not in STILL | OF_OTHERS:
            found += [
                f"{path}:{lines[0]}: {name} is called {row.new}" for pattern, row in named if pattern.fullmatch(name)
            ]
    for row in rows:
        for pattern, flags in ((row.code, re.NOFLAG), (row.words, re.IGNORECASE)):
            for match in re.finditer(pattern, text, flags) if pattern else ():
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path}:{line}: {match[0]} is called {row.new}")
    return found


def _by_name(names: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, line in names:
        found.setdefault(name, []).append(line)
    return found


def test_everything_is_said_by_its_one_name() -> None:
    found: list[str] = []
    for path, text in texts():
        if path == CHANGELOG:  # its tables show the old names, too
            found += strays(path, re.sub(r"(?m)^\|.*", "", text))
        elif path != THIS:
            found += strays(path, text)
    assert found == []


def test_every_name_that_is_recommended_exists() -> None:
    modules = [(path, text) for path, text in texts() if re.match(r"durasleep/.*\.py$", path)]
    known = {name.lstrip(".") for path, text in modules for name, _ in identifiers(path, text)}
    known |= {path.stem for path in PACKAGE.rglob("*.lua")}
    assert [name for row in ROWS for name in row.new.split() if name not in known] == []


def test_no_file_has_its_old_name() -> None:
    assert [path for path in PATHS if (PACKAGE / path).exists()] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("durasleep/worker/x.py", "ending = Ending()"),
        ("durasleep/runtime/journal.py", "place = 3"),
        ("tests/model/explore.py", "for place in places: ..."),
        ("durasleep/codec/shapes.py", "def shape(value, hint): ..."),
        ("durasleep/protocol/membership.py", "head = lua.shared_args()"),
        ("durasleep/transport/server_clock.py", "self._believe(bounds)"),
        ("durasleep/runtime/event_loop.py", "root_lineage = 1"),
        ("durasleep/runtime/event_loop.pxd", "    cdef public object lineage  # detached"),
        ("durasleep/protocol/lua/x.lua", "local birth = ARGV[1] -- deaths"),
        ("durasleep/worker/x.py", '"""A worker nudges another one."""'),
        ("docs/x.md", "The worker puts it aside."),
        ("docs/x.md", "A test calls `env.settle()`."),
        ("README.md", "Its `lineages`."),
        ("README.md", "```python\nfrom durasleep.errors import Detached\n```"),
        ("durasleep/client/x.py", 'raise UsageError("a stand-in for it")'),
    ],
)
def test_a_stray_is_found(path: str, text: str) -> None:
    assert strays(path, text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("durasleep/worker/x.py", '"""The place, the head, a story of two deaths."""\nhead = hint = 1  # birth'),
        ("durasleep/query/x.py", "place = record.place"),
        ("durasleep/protocol/lua/x.lua", "head = 'birth' -- news"),
        ("docs/x.md", "A detached execution settles beside it; look at the place."),
    ],
)
def test_a_word_may_stand_in_prose_and_where_it_has_its_meaning(path: str, text: str) -> None:
    assert strays(path, text) == []


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
        (DueItem, "function", "func"),
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
    with pytest.warns(DeprecationWarning, match="hint is called type_hint"):
        assert app.codec.decode(app.codec.encode([1], "it"), hint=tuple[int]) == (1,)
    with pytest.warns(DeprecationWarning, match="stand_ins is called overrides"):
        app.worker(stand_ins={})
