"""Mutants of Lua: one word of one line changed, or a line that is a statement of its own left out.

Each rule reads one line, with strings and comments blanked out. This works because StyLua writes one statement a line,
and puts the operator at the beginning of a continued line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
_LEVEL = re.compile(r"\berror\(.*, (0)\)")
_BOUND = re.compile(r" (?:[<>]=?) (?:2 \* )?LIMIT\.")
_SPENT = re.compile(r"\bspend\((?:0, 1|[^()]*, [01])\)")
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
        if start in reversals or _BOUND.match(bare, start):
            continue
        after = _WORDS[found[0]]
        yield found[0].strip(), after.strip() or "nothing", line[:start] + after + line[end:]
    fixed = [level.span(1) for level in _LEVEL.finditer(bare)] + [spent.span() for spent in _SPENT.finditer(bare)]
    for found in _NUMBER.finditer(bare):
        start, end = found.span()
        if any(first <= start < last for first, last in fixed):
            continue
        value = int(found[0])
        after = str(value + 1 if value < _SMALL else value * 10)
        yield found[0], after, line[:start] + after + line[end:]
    is_whole = bare.count("(") == bare.count(")") and bare.count("{") == bare.count("}")
    if is_whole and not _GOES_ON.match(following) and (_CALL.fullmatch(bare) or _SET.fullmatch(bare)):
        yield "all of it", "nothing", ""
