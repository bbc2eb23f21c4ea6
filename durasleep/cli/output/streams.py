"""Makes stdin, stdout and stderr usable for a command, so that they never make it fail.

The starter of a command may have closed them, and their reader may be gone: then what is written is dropped.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import Any, TextIO


def prepare() -> None:
    """Call it first of all: a file that is opened before would take the number of a closed stream."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_nothing(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - it stays open to the end
    sys.stdout = _lasting(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _lasting(sys.stderr, sys.__stderr__, 2)


class _Lasting(io.FileIO):
    """Stdout or stderr."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not (isinstance(error, ConnectionError) or self._has_hung_up(error)):
                raise  # such as a disk that is full
            _open_nothing(self.fileno())
            return memoryview(data).nbytes

    def _has_hung_up(self, error: OSError) -> bool:
        """Whether this is a terminal that was closed."""
        return error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)


def _lasting(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    if stream is not original:  # replaced by somebody else, such as a test
        assert stream is not None
        return stream
    if sys.platform == "win32" and stream is not None:  # where a console is not a file
        return stream
    is_plain = isinstance(stream, io.TextIOWrapper)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor, "w", closefd=False)),
        encoding=stream.encoding if is_plain else "utf-8",
        errors="backslashreplace",  # a terminal with a small charset can show any text
        line_buffering=descriptor == 2 or (is_plain and stream.line_buffering),
        write_through=is_plain and stream.write_through,
    )


def _open_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
    os.set_inheritable(descriptor, True)
