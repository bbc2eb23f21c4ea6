"""The pages of the documentation, taken apart: their blocks of code, and what comments say of them.

The rules are those of "Code in the pages", docs/develop/contributing.md. Sybil finds the blocks and the comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sybil import Document, Region
from sybil.parsers.abstract.lexers import LexingException
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

SHOWN = ("text", "mermaid", "lua", "diff", "markdown", "html", "{toctree}", "{eval-rst}")
PARSED = ("toml", "yaml", "json", "ini")
RUN = ("python", "console", "sh")

FOR_THE_NEXT_BLOCK = ("background", "tested by", "prints", "raises")
ALONE = ("worker", "until", "stop", "kill", "server", "port", "with")
COMMENTS = (*FOR_THE_NEXT_BLOCK, *ALONE, "hidden")


class Wrong(Exception):
    """What is wrong in a page, with its line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line = line
        self.text = text


@dataclass(frozen=True)
class Comment:
    """``<!-- name: value -->``."""

    line: int
    name: str
    value: str


@dataclass(frozen=True)
class Block:
    """A block of code; its first line of code is the next one after ``line``."""

    line: int
    language: str
    source: str
    file: str | None
    """The file of the page's directory that it is, if the line before names one."""
    comments: tuple[Comment, ...]

    def said(self, name: str) -> str | None:
        """What a comment in front of it says: the value, or None if there is no such comment."""
        return next((comment.value for comment in self.comments if comment.name == name), None)


def parts(text: str) -> Iterator[Block | Comment]:
    """The blocks of a page in their order; of the comments those that stand alone."""
    document = Document(text, "page")
    fences = [*RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))(document)]
    comments = [one for one in _comments(document) if not any(_is_inside(one.start, fence) for fence in fences)]
    _refuse_unknown(text, [*fences, *comments])
    kept: list[Comment] = []
    for region in sorted([*fences, *comments], key=lambda one: one.start):
        line = text.count("\n", 0, region.start) + 1
        name, value = region.lexemes.get("directive"), region.lexemes.get("arguments", "")
        if name is None or name == "hidden":
            language = value if name else region.lexemes["language"].strip()
            file = _file_named_before(text[: region.start])
            yield Block(line, language, str(region.lexemes["source"]), file, tuple(kept))
            kept = []
        elif name in FOR_THE_NEXT_BLOCK:
            kept.append(Comment(line, name, value))
        else:
            yield Comment(line, name, value)
    if kept:
        raise Wrong(kept[0].line, f"no block follows this comment: {kept[0].name}")


def _comments(document: Document) -> list[Region]:
    try:
        return [*DirectiveInHTMLCommentLexer("|".join(COMMENTS))(document)]
    except LexingException as error:
        raise Wrong(1, str(error)) from None


def _is_inside(position: int, region: Region) -> bool:
    return region.start <= position < region.end


def _refuse_unknown(text: str, regions: list[Region]) -> None:
    """A comment that nothing reads is a slip of the pen: refuse it."""
    for found in re.finditer(r"^[ \t]*<!--.*", text, re.MULTILINE):
        if not any(_is_inside(found.start(), region) for region in regions):
            line = text.count("\n", 0, found.start()) + 1
            raise Wrong(line, f"{found[0].strip()}: a comment begins with one of: {', '.join(COMMENTS)}")


def _file_named_before(text: str) -> str | None:
    """The file that the next block is: the text before it ends in "`name.py`:"."""
    text = re.sub(r"<!--.*?-->\s*\Z", "", text, flags=re.DOTALL)
    found = re.search(r"`([\w./-]+\.(?:py|toml|ya?ml|json|jsonl|ini|cfg|conf|txt|html|sh|ts))`:\s*\Z", text)
    return found[1] if found else None


@dataclass(frozen=True)
class Command:
    """One command of a block ``console``, with what the page shows of its output."""

    line: int
    text: str
    shown: str
    exit_code: int


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block, which may begin with remarks; a line that ends in a backslash goes on."""
    lines = block.source.splitlines()
    at = next((number for number, line in enumerate(lines) if not line.startswith("#")), 0)
    if lines and not lines[at].startswith("$ "):
        raise Wrong(block.line + 1 + at, f"a block `console` begins with `$ command`: {lines[at]}")
    while at < len(lines):
        line, text = block.line + 1 + at, lines[at].removeprefix("$ ")
        while text.endswith("\\"):
            at += 1
            text = f"{text[:-1]}{lines[at].strip()}"
        at += 1
        shown: list[str] = []
        while at < len(lines) and not lines[at].startswith("$ "):
            shown.append(lines[at])
            at += 1
        told = [re.search(r"# exit code (\d+)$", said) for said in (text, *shown)]
        code = next((int(found[1]) for found in told if found), 0)
        shown = [said for said, found in zip(shown, told[1:], strict=True) if not found]
        yield Command(line, text, "\n".join(shown), code)


def fits(shown: str, output: str) -> bool:
    """Whether an output is what a page shows: ``...`` is anything, several spaces are one."""
    pattern = ".*?".join(map(re.escape, re.split(r" ?\.\.\. ?", _tidy(shown))))
    return re.fullmatch(pattern, _tidy(output), re.DOTALL) is not None


def _tidy(text: str) -> str:
    return "\n".join(re.sub(r" {2,}", " ", line.rstrip()) for line in text.strip("\n").splitlines()).strip("\n")
