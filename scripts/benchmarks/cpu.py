"""CPU of worker, client and server for one piece of work, also beside that of another checkout of this repository.

With --against the two checkouts take turns. Each pair of runs, one right after the other, gives a ratio of this
checkout to the other: below one, this one is cheaper. The machine may be faster in one minute than in the next, so
the median of these ratios counts. Two equal checkouts had ratios between 0.96 and 1.03 on two cores that others used
as well: a smaller difference means nothing there. Server, worker and client of each run import durasleep from its
checkout, and the benchmarks from this one.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from durasleep.errors import DurasleepError
from scripts.benchmarks import work
from scripts.benchmarks.bench import ROOT
from scripts.benchmarks.report import Report, rounded
from scripts.benchmarks.stopwatch import Spent

PACKAGE = "durasleep"
BENCHMARKS = ("scripts", "tests")  # linked into the tree of each run
ERROR_LINES = 8  # shown of a run that failed


@dataclass(frozen=True)
class Run:
    """The result of one run."""

    server: str
    finished: int
    spent: Spent


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--what", choices=work.KINDS, default="sleeper", help="the kind of work (%(default)s)")
    parser.add_argument("--count", type=int, default=20_000, help="how many of it in a run (%(default)s)")
    parser.add_argument(
        "--against", type=Path, metavar="DIRECTORY", help="another checkout, which runs in turns with this one"
    )
    parser.add_argument("--pairs", type=int, default=7, help="runs of each, with --against (%(default)s)")
    work.add_concurrency(parser)


async def measure(options: Namespace) -> Report:
    report = Report("cpu", options.server, f"{options.count} {work.KINDS[options.what].what}, all started at once")
    report.notes.append(f"this: {described(ROOT)}")
    with tree_of(ROOT) as this:
        if options.against is None:
            run = await _run(this, options)
            report.add("finished", run.finished)
            run.spent.add_to(report, "finished_per_s")
        else:
            with tree_of(options.against) as against:
                pairs = await _take_turns(this, against, options)
            report.notes.append(f"against: {described(options.against)}")
            report.notes.append(f"medians of {len(pairs)} pairs of runs; a ratio is that of this to the other")
            run, _ = pairs[-1]
            report.add("finished", min(run.finished for pair in pairs for run in pair))
            _compare(report, pairs)
    report.server = run.server
    return report


@contextmanager
def tree_of(checkout: Path) -> Generator[Path]:
    """A directory in which Python finds the durasleep of a checkout, and the benchmarks of this one."""
    if not (checkout / PACKAGE / "__init__.py").is_file():
        raise DurasleepError(f"{checkout} is no checkout of durasleep")
    with tempfile.TemporaryDirectory(prefix="durasleep-bench-") as directory:
        tree = Path(directory)
        (tree / PACKAGE).symlink_to((checkout / PACKAGE).resolve())
        for name in BENCHMARKS:
            (tree / name).symlink_to(ROOT / name)
        yield tree


def described(checkout: Path) -> str:
    """A checkout and its commit, as git has it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "no known commit"
    return f"{checkout.resolve()} at {commit}"


async def _take_turns(this: Path, against: Path, options: Namespace) -> list[tuple[Run, Run]]:
    """Run this checkout and the other in pairs, and take turns which is first; stderr shows each pair."""
    pairs: list[tuple[Run, Run]] = []
    for number in range(options.pairs):
        if number % 2:
            theirs, ours = await _run(against, options), await _run(this, options)
        else:
            ours, theirs = await _run(this, options), await _run(against, options)
        pairs.append((ours, theirs))
        sums = f"{rounded(ours.spent.sum_us)} µs against {rounded(theirs.spent.sum_us)}"
        print(
            f"pair {number + 1} of {options.pairs}: {sums}, ratio {rounded(_sum_ratio(ours, theirs))}", file=sys.stderr
        )
    return pairs


async def _run(tree: Path, options: Namespace) -> Run:
    package = (tree / PACKAGE).resolve()
    arguments = options.what, options.server, str(options.count), str(options.concurrency)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.benchmarks.alone", *arguments),
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        tail = "\n".join(err.decode(errors="replace").splitlines()[-ERROR_LINES:])
        raise DurasleepError(f"a run of {package} failed; its output ends with:\n{tail}")
    found = json.loads(out)
    if Path(found["package"]) != package:
        raise DurasleepError(f"a run of {package} used {found['package']}")
    return Run(found["server"], found["finished"], Spent(**found["spent"]))


def _figures(run: Run) -> dict[str, float]:
    spent = run.spent
    return {
        "worker_cpu_us": spent.worker_us,
        "client_cpu_us": spent.client_us,
        "server_cpu_us": spent.server_us,
        "sum_cpu_us": spent.sum_us,
        "cores_used": spent.cores_used,
        "finished_per_s": spent.per_s,
    }


def _sum_ratio(this: Run, against: Run) -> float:
    return this.spent.sum_us / against.spent.sum_us


def _compare(report: Report, pairs: list[tuple[Run, Run]]) -> None:
    """The median of each figure of both, and of the ratios of the pairs; for the sum also the extreme ratios."""
    figures = [(_figures(this), _figures(against)) for this, against in pairs]
    for name in _figures(pairs[0][0]):
        report.add(name, statistics.median(this[name] for this, _ in figures))
        report.add(f"against_{name}", statistics.median(against[name] for _, against in figures))
        report.add(f"{name}_ratio", statistics.median(this[name] / against[name] for this, against in figures))
    ratios = [_sum_ratio(this, against) for this, against in pairs]
    report.add("sum_ratio_least", min(ratios))
    report.add("sum_ratio_most", max(ratios))
