"""Log lines on stderr, unless the application has handlers of its own."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from durasleep.cli.output import console, json_values
from durasleep.observe import logs

_LOCK = "DURASLEEP_LOG_LOCK"
"""The environment variable that names the descriptor of a file which is locked for each line."""
_LOCK_S = 1.0  # a process that is stopped while it writes a line does not stop the others
_LOOK_S = 0.001

logger = logging.getLogger("durasleep")


def log_to_stderr(level: int, *, as_json: bool = False) -> logs.ExecutionIds:
    """Log lines on stderr: short on a terminal, dated elsewhere, or JSON. Returns what gives each its ids.

    Only lines that no handler of the application takes are written here, also if that has one later.
    """
    handler: logging.Handler
    if as_json:
        handler = logs.OneLine(sys.stderr, _together)
        handler.setFormatter(logs.JsonFormatter())
    elif sys.stderr.isatty():
        from rich.logging import RichHandler

        handler = RichHandler(console=console.console(on_stderr=True), show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logs.Formatter("%(message)s", json_values.visible, indent=""))  # rich indents
    else:
        handler = logs.OneLine(sys.stderr, _together)
        handler.setFormatter(logs.Formatter("%(asctime)s %(levelname)s %(message)s", json_values.visible))
    ids = logs.ExecutionIds()
    handler.addFilter(ids)
    logging.lastResort = handler  # type: ignore[assignment] - it takes any handler
    logger.setLevel(level)
    logger.filters[:] = [_Late(ids)]
    return ids


def log_what_python_prints() -> None:
    """Warnings and the errors that end threads are log lines, too: Python would print them as text."""

    def show(message: Warning | str, category: type[Warning], filename: str, line: int, *_: object) -> None:
        text = f"{filename}:{line}: {category.__name__}: {message}"
        logging.getLogger("py.warnings").warning("%s", text)

    def end_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = args.thread.name if args.thread else "?"
            logging.getLogger("py.threading").error("thread %s has failed", name, exc_info=args.exc_value)

    warnings.showwarning = show
    threading.excepthook = end_thread


def fit_application(ids: logs.ExecutionIds, level_name: str | None, *, as_json: bool) -> None:
    """The application is loaded: its handlers get the ids, and an explicit level holds for its lines, too, if it has
    not set up logging itself.
    """
    root = logging.getLogger()
    if level_name is not None:
        level = logging.getLevelNamesMapping()[level_name.upper()]
        logger.setLevel(level)
        if not root.handlers:
            root.setLevel(level)
    ids.attach()
    if as_json and logger.hasHandlers():
        logger.warning("--log-format json has no effect: the application has handlers of its own, with their format")


class _Late(logging.Filter):
    """Handlers that the application makes later, for example in its lifespan, get the ids with our next line."""

    def __init__(self, ids: logs.ExecutionIds) -> None:
        super().__init__()
        self._ids = ids

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - every record passes
        for one in (logger, logging.getLogger()):
            self._ids.attach_to(one)
        return True


# -- several processes that write to one stderr


def share() -> tuple[Mapping[str, str], tuple[int, ...]]:
    """For processes that we start: the environment and the descriptors with which their lines stay whole."""
    if sys.platform == "win32":
        return {}, ()
    descriptor, name = tempfile.mkstemp(prefix="durasleep-log-")
    Path(name).unlink()  # it lives as long as a process has it open
    os.environ[_LOCK] = str(descriptor)
    return {_LOCK: str(descriptor)}, (descriptor,)


@contextmanager
def _together() -> Generator[None]:
    """While a line is written, no other process of the same command writes one."""
    lock = os.environ.get(_LOCK)
    if lock is None or sys.platform == "win32":
        yield
        return
    import fcntl

    def take() -> bool:
        return _try(lambda: fcntl.lockf(int(lock), fcntl.LOCK_EX | fcntl.LOCK_NB))

    until = time.monotonic() + _LOCK_S
    while not (is_locked := take()) and time.monotonic() < until:
        time.sleep(_LOOK_S)
    try:
        yield
    finally:
        if is_locked:
            with suppress(OSError):
                fcntl.lockf(int(lock), fcntl.LOCK_UN)


def _try(call: Callable[[], object]) -> bool:
    try:
        call()
    except (OSError, ValueError):
        return False
    return True
