"""The same work done by others, each in an environment of its own, for ``--vs``.

A module a peer says what it takes to run it; what runs there is in ``work/``, for that environment alone. A worker
process and a client process on a fresh server of the same kind, jobs delayed by as long as our workflows sleep, as
many at a time as our worker takes. Their jobs answer nothing: the worker says when all have run.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from durasleep.errors import DurasleepError
from scripts.benchmarks.peers import arq, bullmq, dbos, docket
from scripts.benchmarks.peers.running import Measured, Peer, run
from scripts.benchmarks.report import Report, percentile

PEERS: dict[str, Peer] = {
    "docket": docket.PEER,
    "arq": arq.PEER,
    "bullmq": bullmq.PEER,
    "dbos": dbos.PEER,
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--vs", type=_names, default=(), metavar="NAMES", help=f"the same work by others: {','.join(PEERS)}"
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in PEERS:
            raise ArgumentTypeError(f"{name!r} is none of {', '.join(PEERS)}")
    return names


async def add_lateness(
    report: Report, options: Namespace, *, timers: int, every_ms: float, lead_ms: int
) -> dict[str, list[float]]:
    """The lateness of the peers that were asked for; answers all of their delays in ms."""
    samples: dict[str, list[float]] = {}
    for name in options.vs:
        found = await _measure(report, name, options.server, timers, delay_ms=lead_ms, every_ms=every_ms)
        if found is not None:
            samples[name] = found.late_ms
            report.add(f"{name}_early", sum(ms < 0 for ms in found.late_ms))
            report.add(f"{name}_p50_ms", percentile(found.late_ms, 0.5))
            report.add(f"{name}_p99_ms", percentile(found.late_ms, 0.99))
            report.add(f"{name}_max_ms", max(found.late_ms))
    return samples


async def add_throughput(report: Report, options: Namespace, *, count: int, sleep_ms: int, ours_per_s: float) -> None:
    """The throughput of the peers that were asked for, and how many times as much ours is."""
    for name in options.vs:
        found = await _measure(report, name, options.server, count, delay_ms=sleep_ms, every_ms=0)
        if found is not None:
            per_s = count / found.seconds
            report.add(f"{name}_finished_per_s", per_s)
            report.add(f"{name}_worker_cpu_us", found.worker_cpu_s * 1e6 / count)
            report.add(f"{name}_client_cpu_us", found.client_cpu_s * 1e6 / count)
            report.add(f"{name}_redis_cpu_us", found.server_cpu_s * 1e6 / count)
            report.add(f"times_{name}", ours_per_s / per_s, at_least=PEERS[name].times_min)


async def _measure(
    report: Report, name: str, kind: str, count: int, *, delay_ms: int, every_ms: float
) -> Measured | None:
    """What a peer does; None, with a note, if it cannot be run here."""
    peer = PEERS[name]
    try:
        found = await run(peer, kind, count, delay_ms=delay_ms, every_ms=every_ms)
    except DurasleepError as error:
        report.notes.append(f"{name} was not measured: {error}")
        return None
    report.notes.append(f"{name} {found.version}: {peer.what}")
    return found
