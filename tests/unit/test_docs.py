"""The documents are complete: each log line and each cited law can be looked up, and no link is broken."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import durasleep
from durasleep import errors
from durasleep.cli.output.fsck_words import CHECKED, FINDINGS, counted
from durasleep.model import Place, State
from durasleep.protocol.keys import Keyspace, meta_key
from durasleep.query.statuses import STATUSES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(durasleep.__file__).resolve().parent  # which need not be that of the repository

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "develop" / "architecture.md").read_text()
TROUBLESHOOTING = (ROOT / "docs" / "operate" / "troubleshooting.md").read_text()

LEVELS = {"warning": "warning", "log": "warning", "error": "error", "critical": "error", "exception": "error"}
"""The page's name for the level of a logger's method."""

# -- messages of the package and quotes of the page; a part that differs from line to line is "<>" in both


def alike(text: str) -> str:
    """A text in one line; neighbouring parts that differ become one."""
    return re.sub(r"(<[^<>]*>)+", "<>", " ".join(text.split()))


def template(node: ast.expr) -> str:
    """The text of a string expression."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(template, values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case _:
            return "<>"


def trees() -> Iterator[ast.Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ast.parse(path.read_text(), str(path))


def said_by_logs() -> set[tuple[str, str]]:
    """Level and text of every line above INFO that the package logs."""
    found: set[tuple[str, str]] = set()
    for tree in trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method), args=[first, *rest]) if (
                    name.strip("_") in ("log", "logger") and method in LEVELS
                ):
                    text = template(rest[0] if method == "log" else first)
                    found.add((LEVELS[method], alike(re.sub(r"%[-\d.]*[a-z]", "<>", text))))
                case _:
                    pass
    return found


def said_anywhere() -> set[str]:
    """Every string of the package, and every error of its Lua scripts."""
    found = {
        alike(template(node))
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)
    }
    for path in PACKAGE.rglob("*.lua"):
        for raised in re.findall(r"(?:error|halt)\((.+)\)", path.read_text()):
            found.add(alike("".join(re.sub(r"'([^']*)'|[^']+", lambda part: part[1] or "<>", raised))))
    return found


def bullets() -> Iterator[tuple[str, str]]:
    """The quote of each entry of the page, and the text that follows it."""
    for entry in re.findall(r"^ *- (.*(?:\n +(?!- ).*)*)", TROUBLESHOOTING, re.MULTILINE):
        quoted = re.match(r"(?s)(`+)(.+?)(?<!`)\1(?!`)\s*(.*)", entry)
        assert quoted is not None, f"an entry that quotes nothing: {entry}"
        yield alike(quoted[2]), quoted[3]


WIDTH_MAX = 120

COMMAND = re.compile(r"durasleep (doctor|get|ls|fsck)\b")
"""The entries at the beginning of the page, the only ones that are not messages."""


def test_every_line_of_the_log_above_info_is_explained() -> None:
    explained = {
        (level[1], quoted) for quoted, rest in bullets() if (level := re.match(r"\*(warning|error)\*\.", rest))
    }
    said = said_by_logs()
    assert len(said) > 40
    assert not lines(said - explained), "docs/operate/troubleshooting.md lacks these lines"
    assert not lines(explained - said), "nobody says any more what docs/operate/troubleshooting.md explains"


def lines(found: Iterable[tuple[str, str]]) -> str:
    """For the person who corrects the page."""
    return "\n".join(f"{level}: {text}" for level, text in sorted(found))


def test_every_message_that_is_explained_is_one_of_ours() -> None:
    said = said_anywhere()
    messages = [(quoted, rest) for quoted, rest in bullets() if not rest.startswith("*")]
    messages = [(quoted, rest) for quoted, rest in messages if not COMMAND.match(quoted)]
    assert len(messages) > 50
    for quoted, rest in messages:
        assert re.search(r"\w+ \w+|poison", quoted), f"too little to be looked for: {quoted}"
        assert any(quoted in text for text in said), f"nobody says: {quoted}"
        kind = re.match(r"\(`(\w+)`\)", rest)
        assert rest[0] == ":" or (kind and (kind[1] == "halted" or kind[1] in KINDS)), f"of what kind is: {quoted}"


KINDS = {
    name
    for module in (errors, builtins, asyncio)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, BaseException)
}


# -- laws


def laws() -> list[int]:
    """The numbers of the laws that the page states."""
    section = ARCHITECTURE.partition("\n## The laws\n")[2].partition("\n## ")[0]
    return [int(number) for number in re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE)]


def test_every_law_that_is_cited_is_stated() -> None:
    cited: set[int] = set()
    for folder in (PACKAGE, *(ROOT / name for name in ("tests", "scripts", "examples", "docs"))):
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".lua", ".md"):
                text = path.read_text()
                cited |= {int(number) for number in re.findall(r"\blaws?[ _](\d+)", text)}
    assert cited >= {2, 6}
    assert not cited - set(laws()), "docs/develop/architecture.md lacks these laws"


def test_every_law_has_its_test() -> None:
    text = (ROOT / "tests" / "laws" / "test_laws.py").read_text()
    tested = [int(number) for number in re.findall(r"def test_law_(\d+)_", text)]
    assert sorted(tested) == laws()


# -- keys, words and findings


def test_every_key_is_in_the_table_of_keys() -> None:
    keys = Keyspace("n")
    names: set[str] = set()
    for name, value in vars(Keyspace).items():
        if name == "elsewhere":
            continue  # no key
        if isinstance(value, property) and name != "tag":
            key = getattr(keys, name)
            names.add(f"{key}<>" if key.endswith(":") else key)
        elif inspect.isfunction(value) and inspect.signature(value).return_annotation == "str":
            names.add(value(keys, "<>"))
    assert {"promise:<>", "timers"} <= {name.removeprefix(keys.tag) for name in names}
    section = (ROOT / "docs" / "reference" / "keys.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    told = {alike(name) for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert told == {name.removeprefix(keys.tag) for name in names}
    assert f"`{meta_key('namespace')}`" in section


def glossary() -> set[str]:
    """The words that the page explains."""
    section = ARCHITECTURE.partition("\n## Glossary\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)
    return {word for row in rows for word in row.split(", ")}


def test_the_glossary_has_the_statuses_that_are_not_states_or_places() -> None:
    explained_elsewhere = {one.value for one in (*Place, *State)}
    assert set(STATUSES) - explained_elsewhere <= glossary()
    assert {"slot", "deferred", "offered", "promise"} <= glossary()


def text_of(script: str) -> str:
    """The text of a script, and of the parts in its own folder."""
    lua = PACKAGE / "protocol" / "lua"
    return "".join(file.read_text() for file in (lua / f"{script}.lua", *sorted((lua / script).glob("*.lua"))))


def test_every_finding_of_fsck_has_its_words_and_is_explained() -> None:
    script = text_of("fsck")
    kinds = set(re.findall(r"found\('(\w+)'", script))
    kinds |= {kind for pair in re.findall(r"found\(score and '(\w+)' or '(\w+)'", script) for kind in pair}
    kinds |= set(re.findall(r'_by_hand\("(\w+)"', (PACKAGE / "query" / "fsck.py").read_text()))
    assert len(re.findall(r"\bfound\((?!kind)", script)) == len(re.findall(r"\bfound\((?:'|score and ')", script))
    assert FINDINGS.keys() == kinds
    section = TROUBLESHOOTING.partition("\n## Findings of fsck\n")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| \S", section, re.MULTILINE)) == FINDINGS


def test_everything_that_fsck_checks_has_words() -> None:
    checks: set[str] = set()
    for script, before in (("fsck", ""), ("resonate_fsck", "r:")):
        names = re.findall(r"^ *function checks\.(\w+)", text_of(script), re.MULTILINE)
        checks |= {f"{before}{name}" for name in names}
    assert CHECKED.keys() == checks
    assert counted({"entry": 1, "promise": 2_000}) == "2,000 executions and promises, 1 queue entry"


def test_every_folder_of_the_package_is_on_the_map() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        folder = path.parent.relative_to(PACKAGE)
        assert folder == Path() or f"`{folder.as_posix()}/`" in ARCHITECTURE, (
            f"docs/develop/architecture.md lacks {folder}/"
        )


def test_contributors_are_told_of_every_script_and_every_folder_of_tests() -> None:
    page = (ROOT / "docs" / "develop" / "contributing.md").read_text()
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.stat().st_mode & 0o111]
    folders = [path for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))]
    assert scripts
    assert folders
    for path in (*scripts, *folders):
        assert f"`{path.relative_to(ROOT).as_posix()}`" in page, path


# -- lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_is_too_wide_to_be_read(page: Path) -> None:
    wide = [line for line in page.read_text().splitlines() if len(line) > WIDTH_MAX and not line.startswith("|")]
    assert [line for line in wide if "](" not in line] == []  # a link cannot be broken


# -- links


def without_code(text: str) -> str:
    return re.sub(r"(?s)^```.*?^```$", "", text, flags=re.MULTILINE)


def linked(page: Path, name: str) -> Path:
    """The file of a link; a file of the package is looked for where the package is."""
    path = (page.parent / name).resolve()
    inside = path.relative_to(ROOT).parts
    return PACKAGE.joinpath(*inside[1:]) if inside[:1] == (PACKAGE.name,) else path


def anchors(page: Path) -> set[str]:
    """The headings of a page, in the form that links use."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = linked(page, name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
