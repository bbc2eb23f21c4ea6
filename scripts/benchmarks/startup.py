"""The cost of a start: processor time of whole processes, beside one that only imports ``redis.asyncio``.

Each program runs once for its bytecode, then all of them in turns. A ratio is that of the best times, because a busy
machine changes them least. It needs no server.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace

from durasleep.errors import DurasleepError
from scripts.benchmarks.bench import ROOT
from scripts.benchmarks.report import Report

REDIS = "redis_asyncio"
PROGRAMS = {
    "python": ("-c", "pass"),
    REDIS: ("-c", "import redis.asyncio"),
    "import": ("-c", "import durasleep"),
    "application": ("-c", "from durasleep import Durasleep"),
    "worker": ("-c", "from durasleep import Durasleep; Durasleep().worker()"),
    "help": ("-m", "durasleep", "--help"),
    "get_help": ("-m", "durasleep", "get", "--help"),
}
RATIO_MAX = {"import": 1.15, "help": 1.5}
"""The budgets, as shares of the time that ``import redis.asyncio`` takes: every user pays that anyway."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15, help="how often each runs (%(default)s)")


async def measure(options: Namespace) -> Report:
    report = Report("startup", "no server", f"the best of {options.rounds} processes each, in turns")
    best_s = await asyncio.to_thread(_best_s, options.rounds)
    for name, spent_s in best_s.items():
        report.add(f"{name}_cpu_ms", spent_s * 1000)
    for name, spent_s in best_s.items():
        if name not in ("python", REDIS):
            report.add(f"{name}_ratio", spent_s / best_s[REDIS], at_most=RATIO_MAX.get(name))
    return report


def _best_s(rounds: int) -> dict[str, float]:
    """The least processor time of each program, in seconds."""
    for arguments in PROGRAMS.values():
        _spent_s(arguments)
    turns = [{name: _spent_s(arguments) for name, arguments in PROGRAMS.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in PROGRAMS}


def _spent_s(arguments: tuple[str, ...]) -> float:
    """The processor time of one process, in itself and in the kernel."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DurasleepError(f"`python {' '.join(arguments)}` ended with {process.returncode}")
    return used.ru_utime + used.ru_stime
