"""Work that runs beside the test: in several threads at once, or in a forked child."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 8


def in_threads(work: Callable[[int], T]) -> list[T]:
    """The answers of ``work`` in several threads that run at the same time."""
    begin = threading.Barrier(THREADS)

    def run(number: int) -> T:
        begin.wait(10)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def in_forked_child(work: Callable[[], Any]) -> Callable[[], int]:
    """Runs ``work`` in a child that is forked here; returns its exit code, 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
