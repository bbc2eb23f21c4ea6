"""What executions publish, as payloads: the values of a workflow, and the values and the progress of a step or task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from durasleep.codec.codec import Codec
from durasleep.codec.packing import pack
from durasleep.codec.values import unpack
from durasleep.errors import CorruptData, PayloadTooLarge, UsageError
from durasleep.model import check_label, plain_number, shown

PUBLISHED_BYTES_MAX = 4096  # of a workflow, a step or a task: a view has up to 65 of them, and is read at each change


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a step or task has come, as it says itself by ``durasleep.progress``."""

    done: float
    """How much is done."""
    total: float | None
    """Of how much; None if that is not known."""
    text: str
    """What it does now; may be empty."""

    @property
    def fraction(self) -> float | None:
        """How much of the whole is done, from 0 to 1; None if the total is not known."""
        if self.total is None or self.total <= 0:
            return None
        return min(max(self.done / self.total, 0.0), 1.0)


PROGRESS_TEXT_MAX = 255  # characters; the rest is cut off


def progress_of(done: object, total: object, text: object) -> StepProgress:
    """What code says of itself; UsageError for what is no number or no text."""
    if not isinstance(text, str):
        raise UsageError(f"progress: text is {shown(text)}, and must be a text")
    number = _number(done, "done")
    line = "".join([letter if letter.isprintable() else " " for letter in text[:PROGRESS_TEXT_MAX]])  # only to be shown
    return StepProgress(number, None if total is None else _number(total, "total"), line)


def _number(value: object, what: str) -> float:
    number = plain_number(value)
    try:
        plain = None if number is None else number if isinstance(number, int) else float(number)
    except OverflowError:
        plain = None
    if plain is None or not math.isfinite(plain) or abs(plain) >= 2**63:
        raise UsageError(f"progress: {what} is {shown(value)}, and must be a number")
    return plain


def copy_values(values: Mapping[str, object], whose: str) -> dict[str, Any]:
    """The values as they will be read, whatever happens to them later. InvalidId for a name that cannot be used, and
    NotSerializable names a value that cannot be sent.
    """
    copies: dict[str, Any] = {}
    for name, value in values.items():
        if not check_label(name):
            raise UsageError("a published value needs a name")
        copies[name] = unpack(pack(value, f"the published value {name!r} of {whose}", None))
    return copies


def encode_run(codec: Codec, base: int, values: dict[str, Any], whose: str) -> bytes:
    """What a workflow publishes in the run that begins after entry ``base``; PayloadTooLarge if it is too much."""
    return _encode(codec, [base, values], values, whose)


def decode_run(codec: Codec, payload: bytes) -> tuple[int, dict[str, Any]]:
    """The base of a run, and what it has published; CorruptData for anything else."""
    found: Any = codec.decode(payload)
    match found:
        case [int(base), dict()]:
            return base, cast("dict[str, Any]", found[1])
        case _:
            raise CorruptData("what a workflow has published is not ours")


def encode_attempt(codec: Codec, values: dict[str, Any], progress: StepProgress | None, whose: str) -> bytes:
    """What an attempt of a step or task publishes; PayloadTooLarge if it is too much."""
    said = None if progress is None else [progress.done, progress.total, progress.text]
    return _encode(codec, [values, said], values, whose)


def decode_attempt(codec: Codec, payload: bytes) -> tuple[dict[str, Any], StepProgress | None]:
    """The values and the progress of an attempt; CorruptData for anything else."""
    found: Any = codec.decode(payload)
    match found:
        case [dict(), None]:
            return cast("dict[str, Any]", found[0]), None
        case [dict(), [int() | float() as done, int() | float() | None as total, str(text)]]:
            return cast("dict[str, Any]", found[0]), StepProgress(done, total, text)
        case _:
            raise CorruptData("what a step has published is not ours")


def _encode(codec: Codec, what: list[Any], values: dict[str, Any], whose: str) -> bytes:
    payload = codec.encode(what, f"what {whose} publishes")
    if len(payload) > PUBLISHED_BYTES_MAX:
        sizes = {name: len(pack(value, name, None)) for name, value in values.items()}
        largest = max(sizes, key=sizes.__getitem__, default="")
        raise PayloadTooLarge(
            f"what {whose} publishes: {len(payload)} bytes are over the cap of {PUBLISHED_BYTES_MAX}, "
            f"{sizes.get(largest, 0)} of them in {largest!r}"
        )
    return payload
