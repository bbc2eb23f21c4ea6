"""Tracebacks of users' errors as they are stored: the frames of user code, and the number of ours."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType

PACKAGE = __name__.partition(".")[0]


def of_user(error: BaseException, frames_max: int) -> str:
    """The last ``frames_max`` frames of user code, without ours and those between ours."""
    frames = list(_each(error.__traceback__))
    text = "".join(traceback.format_tb(_chained(_of_user(frames)), limit=-frames_max))
    ours = sum(_module_of(frame) == PACKAGE for frame in frames)
    if not ours:
        return text
    return f"{text}  ({ours} {'frame' if ours == 1 else 'frames'} of {PACKAGE} left out)\n"


def _of_user(frames: Sequence[TracebackType]) -> list[TracebackType]:
    """The frames of users. Frames of Python's own modules before one of ours are our way of calling user code: dropped.

    So are frames of asyncio after the last of ours: they end the call that we wait for.
    """
    shown: list[TracebackType] = []
    between: list[TracebackType] = []
    for frame in frames:
        if _module_of(frame) == PACKAGE:
            between.clear()
        elif _module_of(frame) in sys.stdlib_module_names:
            between.append(frame)
        else:
            shown += [*between, frame]
            between.clear()
    return shown + [frame for frame in between if shown or _module_of(frame) != "asyncio"]


def _each(first: TracebackType | None) -> Iterator[TracebackType]:
    while first is not None:
        yield first
        first = first.tb_next


def _chained(frames: Sequence[TracebackType]) -> TracebackType | None:
    chain: TracebackType | None = None
    for frame in reversed(frames):
        chain = TracebackType(chain, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return chain


def _module_of(frame: TracebackType) -> str:
    """The package of its code: compiled code, too, knows that."""
    return str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
