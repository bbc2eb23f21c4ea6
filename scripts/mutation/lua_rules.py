"""Mutants of Lua: one word of one line changed, or a line that is a statement of its own left out.

Each rule reads one line, with strings and comments blanked out. This works because StyLua writes one statement a line,
and puts the operator at the beginning of a continued line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.mutation.mutant import Mutant, in_one_line, numbered

LUA = Path("durasleep/protocol/lua")
_SMALL = 10  # see python_rules

_WORDS = {
    " == ": " ~= ",
    " ~= ": " == ",
    " < ": " <= ",
    " <= ": " < ",
    " > ": " >= ",
    " >= ": " > ",
    " and ": " or ",
    " or ": " and ",
    " + ": " - ",
    " - ": " + ",
    " * ": " / ",
    " / ": " * ",
    "not ": "",
    "true": "false",
    "false": "true",
    "math.min": "math.max",
    "math.max": "math.min",
}
_WORD = re.compile("|".join(re.escape(word) if word[0] == " " else rf"\b{re.escape(word)}" for word in _WORDS))
_REVERSED = ("==", "~=", "not")  # of these the change says the contrary
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
_CONDITION = re.compile(r"\b(?:else)?if (.+?) then\b")
_CALL = re.compile(r"\s*[\w.:]+\(.*\)\s*")
_SET = re.compile(r"\s*[\w]+[\w.\[\] #+\"']*[.\]][\w.\[\]]* = .*[^,({=]\s*|\s*[\w]+ = .*[^,({=]\s*")
_KEPT = (
    re.compile(r"\berror\(.*, (0)\)"),  # the level of an error, which our callers cut off
    re.compile(r"( [<>]=?) (?:2 \* )?LIMIT\."),  # a limit by one
    re.compile(r"\b0, LIMIT\.\w+( - 1)"),  # the same, as the end of a range
    re.compile(r"\bspend\((0)?[^()]*, ([01])?"),  # a budget by one
    re.compile(r"\b(?:bytes_left|members_left|room)( [<>]=? 0)|( [<>]=?) (?:members_left|room)\b"),
    re.compile(r"\bbytes = .*, (0)(?: --|$)|\broom = (0)\b"),
    re.compile(r"^local [A-Z_]+ = (\d)(?: --|$)"),  # a small number with a name is a choice: one more is as good
    re.compile(r"\bstring\.find\(.*, '[^'^$()%.\[*+?-]*', 1, (true)\)"),  # `plain`, of a text without magic
    re.compile(r"\bwhile (?:at|op)( <= )(?:last|stop) do"),  # what it walks over never ends with a single value
)
"""Parts that stay as they are: no test could call another one wrong."""
_GOES_ON = re.compile(r"\s*(?:and|or|\.\.|[-+*/]|[)}\]])")
_TEXT = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|--.*")
_FUNCTION = re.compile(r"(?:local )?function ([\w.]+)")
_FIXED = ("unpack(ARGV", "unpack(KEYS", "-- @include")  # a signature is read from Lua, see durasleep/protocol/script.py


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of one script, in the order of its lines."""
    lines, where = source.splitlines(), ""
    made: list[Mutant] = []
    for at, line in enumerate(lines):
        if named := _FUNCTION.search(line):
            where = named[1]
        if any(word in line for word in _FIXED):
            continue
        bare = _TEXT.sub(lambda text: (" " if text[0].startswith("--") else "\0") * len(text[0]), line)
        following = lines[at + 1] if at + 1 < len(lines) else ""
        for before, after, changed in _changes(line, bare, following):
            text = "\n".join([*lines[:at], changed, *lines[at + 1 :], ""])
            code = in_one_line(line[: _end_of_code(line)])
            made.append(Mutant(path, at + 1, where, f"{code}: {before} -> {after}", text))
    return numbered(made)


def _end_of_code(line: str) -> int:
    """Where its comment begins: a mutant keeps its name when a comment is reworded."""
    return next((text.start() for text in _TEXT.finditer(line) if text[0].startswith("--")), len(line))


def _changes(line: str, bare: str, following: str) -> Iterator[tuple[str, str, str]]:
    """What was there, what is there now, and the line with it."""
    kept = [found.span(at) for part in _KEPT for found in part.finditer(line) for at in range(1, part.groups + 1)]
    reversals = set[int]()
    for found in _CONDITION.finditer(bare):
        start, end = found.span(1)
        for word in ("true", "false"):
            yield line[start:end], word, line[:start] + word + line[end:]
        words = list(_WORD.finditer(bare, start, end))
        if len(words) == 1 and words[0][0].strip() in _REVERSED:
            reversals.add(words[0].start())
    for found in _WORD.finditer(bare):
        start, end = found.span()
        if start in reversals or _is_in(kept, start):
            continue
        after = _WORDS[found[0]]
        yield found[0].strip(), after.strip() or "nothing", line[:start] + after + line[end:]
    for found in _NUMBER.finditer(bare):
        start, end = found.span()
        if _is_in(kept, start):
            continue
        value = int(found[0])
        after = str(value + 1 if value < _SMALL else value * 10)
        yield found[0], after, line[:start] + after + line[end:]
    is_whole = bare.count("(") == bare.count(")") and bare.count("{") == bare.count("}")
    if is_whole and not _GOES_ON.match(following) and (_CALL.fullmatch(bare) or _SET.fullmatch(bare)):
        yield "all of it", "nothing", ""


def _is_in(spans: Sequence[tuple[int, int]], at: int) -> bool:
    return any(first <= at < last for first, last in spans)
