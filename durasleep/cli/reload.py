"""``--reload`` of ``durasleep dev`` and ``durasleep worker``.

The worker is a process of its own, and is started again when the code changes.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from durasleep.cli import processes
from durasleep.errors import UsageError

LOOK_S = 0.5  # how often it is checked that everything still runs
_DRAIN_S = 3.0  # executions that run longer are released, and go on in the next worker
FORCED_S = 10.0  # a worker that got a second signal has ended before

logger = logging.getLogger("durasleep")


def watcher() -> Any:
    """The library that watches files; UsageError, saying what to install, if it is missing."""
    try:
        return import_module("watchfiles")
    except ModuleNotFoundError:
        raise UsageError('--reload needs watchfiles: pip install "durasleep[reload]"') from None


def serve(command: Sequence[str], environment: Mapping[str, str], directory: Path, check: Callable[[], None]) -> None:
    """Run a worker by ``command`` until SIGTERM or Ctrl-C; start it again after each change of code below
    ``directory``.

    A worker that ends by itself is started again when the code has changed: in most cases, the change is the fix.
    ``check`` is called all the time; if it raises, everything ends.
    """
    watchfiles = watcher()
    stop_asked = threading.Event()
    worker = processes.start(command, environment)

    def on_signal(_number: int, _frame: object) -> None:
        if stop_asked.is_set():
            _notify(worker)
        stop_asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    is_said = False
    changes = watchfiles.watch(
        directory,
        watch_filter=watchfiles.PythonFilter(),
        stop_event=stop_asked,
        rust_timeout=round(LOOK_S * 1000),
        yield_on_timeout=True,
    )
    try:
        for changed in changes:
            check()
            if changed:
                logger.info("%s changed: the worker is started again", _named(path for _, path in changed))
                _end(worker)
                worker, is_said = processes.start(command, environment), False
            elif worker.poll() is not None and not is_said:
                logger.warning("the worker has ended; it is started again when the code changes")
                is_said = True
    finally:
        _end(worker)


def _named(paths: Iterable[str]) -> str:
    first, *others = sorted(os.path.relpath(path) for path in paths)
    return f"{first} and {len(others)} more" if others else first


def _end(worker: subprocess.Popen[bytes]) -> None:
    for patience_s in (_DRAIN_S, FORCED_S):
        _notify(worker)
        try:
            worker.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
        return
    worker.kill()
    worker.wait()


def _notify(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
