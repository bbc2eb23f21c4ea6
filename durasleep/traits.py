"""What a call says about its execution, beside where and when it runs: priority, limit key, labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from durasleep.errors import UsageError
from durasleep.model import PRIORITIES, shown

LABELS_MAX = 8  # of one execution: they are in its hash, and each that is indexed takes a hundred bytes more
WORD_BYTES_MAX = 128  # of the value of a label, and of a key
LABEL_END = "\x1f"  # between two labels; a value has no control characters
FUNCTIONS = "func"
"""The name of the index of the functions, which no label has."""
_LABEL_NAME = re.compile(r"[a-z0-9_.-]{1,32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Traits(msgspec.Struct, frozen=True):
    """What a call says about its execution, beside where and when it runs."""

    priority: int | None = None
    """From 1, which comes first, to 5; None for that of its function or its parent, or ``PRIORITY``."""
    key: str = ""
    """For whom it is, where a limit counts by key."""
    weight: str = ""
    """The share of its key, as a number; empty for 1."""
    labels: Mapping[str, str] = _NO_LABELS
    """Names and values by which people find it."""
    mode: str = ""
    """What happens to one that is there: ``s`` to begin anew if it has ended, ``d`` and a number to debounce it for so
    many ms at most; see ``create.lua``."""

    def words(self) -> str:
        """As the scripts read them; empty if there is nothing to say."""
        if self == _NO_TRAITS:
            return ""
        return "\t".join(
            (
                "" if self.priority is None else str(self.priority),
                self.key,
                self.weight,
                write_labels(self.labels),
                self.mode,
            )
        )


_NO_TRAITS = Traits()


def write_labels(labels: Mapping[str, str]) -> str:
    """Labels as they are kept, in the order of their names."""
    return LABEL_END.join([f"{name}={labels[name]}" for name in sorted(labels)]) if labels else ""


def read_labels(text: str) -> dict[str, str]:
    """The labels in what ``write_labels`` has written."""
    if not text:
        return {}
    return dict(label.split("=", 1) for label in text.split(LABEL_END) if "=" in label)


def check_priority(priority: int) -> int:
    """Return a priority, or raise UsageError."""
    if type(priority) is not int or priority not in PRIORITIES:
        raise UsageError(f"priority {shown(priority)}: use 1 (first) to 5 (last); 3 is the default")
    return priority


def check_index(label: str) -> str:
    """Return the name of an index, or raise UsageError."""
    if not isinstance(label, str) or not _LABEL_NAME.fullmatch(label):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"index {shown(label)}: give the name of a label, or func for the functions")
    return label


def check_indexes(labels: Collection[str]) -> tuple[str, ...]:
    """Return the names of indexes, or raise UsageError."""
    if isinstance(labels, str):  # its letters would be names, too
        raise UsageError(f"index {shown(labels)}: give a tuple of names, such as ({labels!r},)")
    return tuple(map(check_index, labels))


def check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return labels, or raise UsageError."""
    if not isinstance(labels, Mapping) or len(labels) > LABELS_MAX:  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise UsageError(f"labels {shown(labels)}: give at most {LABELS_MAX} names with their values, as a dict")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"label {shown(name)}: a name has 1 to 32 of the letters a-z, digits, '_', '.' and '-'")
        if name == FUNCTIONS:
            raise UsageError(f"label {name}: the index of this name is for the functions; take another name")
        _check_word(value, f"label {name}")
    return labels


def check_limit_key(key: str) -> str:
    """Return the key for a limit, or raise UsageError."""
    _check_word(key, "key")
    if "{" in key or "}" in key:
        raise UsageError(
            f"key {key!r}: braces cannot be used, because an id of several partitions has the key in braces"
        )
    return key


def _check_word(value: str, what: str) -> None:
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise UsageError(f"{what} {shown(value)}: it is a text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{what} {value!r}: it is not valid Unicode") from None
    if size > WORD_BYTES_MAX or _CONTROL.search(value):
        raise UsageError(f"{what} {shown(value)}: use at most {WORD_BYTES_MAX} bytes, none of them a control character")
