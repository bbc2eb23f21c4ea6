"""Stdin, stdout and stderr as a command needs them: there, and never a reason to fail.

Who starts a command may have closed them, and who read them may have gone: what is written then goes nowhere.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import Any, TextIO


def prepare() -> None:
    """At the start, before anything else is opened: what is opened first would take the place of what is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_nothing(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - it is open to the end
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
    if stream is not original:  # somebody else's, as of a test
        assert stream is not None
        return stream
    if sys.platform == "win32" and stream is not None:  # where a console is no file
        return stream
    is_plain = isinstance(stream, io.TextIOWrapper)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor, "w", closefd=False)),
        encoding=stream.encoding if is_plain else "utf-8",
        errors="backslashreplace",  # no text breaks a terminal of a small charset
        line_buffering=descriptor == 2 or (is_plain and stream.line_buffering),
        write_through=is_plain and stream.write_through,
    )


def _open_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
    os.set_inheritable(descriptor, True)
