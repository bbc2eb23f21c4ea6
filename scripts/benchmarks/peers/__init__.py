"""The same work done by peers, each in an environment of its own, for ``--vs``.

Each peer has a module with what is needed to run it. The code in ``work/`` runs in the peer's environment only. A peer
has a worker process and a client process on a fresh server of the same kind. Its jobs are delayed by as long as our
workflows sleep. They answer nothing: the worker reports when all have run.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from durasleep.errors import DurasleepError
from scripts.benchmarks.peers import arq, bullmq, dbos, docket
from scripts.benchmarks.peers.running import Measured, Peer, PeerWork, run
from scripts.benchmarks.report import Report, percentile

CONCURRENCY = 100  # with 1,000, as our worker has, BullMQ finished a seventh less

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
    parser.add_argument(
        "--vs-concurrency", type=int, default=CONCURRENCY, help="jobs that their worker runs at a time (%(default)s)"
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in PEERS:
            raise ArgumentTypeError(f"{name!r} is not one of {', '.join(PEERS)}")
    return names


async def add_lateness(report: Report, options: Namespace, work: PeerWork) -> dict[str, list[float]]:
    """Measure the lateness of the chosen peers; answers all of their delays in ms."""
    samples: dict[str, list[float]] = {}
    for name in options.vs:
        found = await _measure(report, name, options.server, work)
        if found is not None:
            samples[name] = found.late_ms
            report.add(f"{name}_early", sum(ms < 0 for ms in found.late_ms))
            report.add(f"{name}_p50_ms", percentile(found.late_ms, 0.5))
            report.add(f"{name}_p99_ms", percentile(found.late_ms, 0.99))
            report.add(f"{name}_max_ms", max(found.late_ms))
    return samples


async def add_throughput(
    report: Report, options: Namespace, work: PeerWork, *, workflows_per_s: float, tasks_per_s: float
) -> None:
    """Measure the throughput of the chosen peers, and the ratio of ours to theirs, of each kind."""
    for name in options.vs:
        found = await _measure(report, name, options.server, work)
        if found is not None:
            peer = PEERS[name]
            found.spent.add_to(report, "finished_per_s", prefix=f"{name}_")
            report.add(
                f"workflows_times_{name}", workflows_per_s / found.spent.per_s, at_least=peer.workflows_times_min
            )
            report.add(f"tasks_times_{name}", tasks_per_s / found.spent.per_s, at_least=peer.tasks_times_min)


async def add_limits(report: Report, options: Namespace, plain: PeerWork, by_key: PeerWork, total: PeerWork) -> None:
    """Measure the chosen peers without their limit and with it: the one by key, where they have it, else the total."""
    for name in options.vs:
        peer = PEERS[name]
        if not peer.limit:
            report.notes.append(f"{name} has no limit of what runs at a time")
            continue
        kind, limited = ("per_key", by_key) if peer.limits_by_key else ("total", total)
        without = await _measure(report, name, options.server, plain)
        within = without and await _measure(report, name, options.server, limited)
        if without and within:
            report.notes.append(f"{name}_{kind} is its {peer.limit}")
            for prefix, found in ((f"{name}_plain_", without), (f"{name}_{kind}_", within)):
                report.add(f"{prefix}finished_per_s", found.spent.per_s)
                report.add(f"{prefix}sum_cpu_us", found.spent.sum_us)
            report.add(f"{name}_{kind}_times_plain", within.spent.sum_us / without.spent.sum_us)


async def _measure(report: Report, name: str, kind: str, work: PeerWork) -> Measured | None:
    """Run a peer; None, with a note, if it cannot be run here."""
    peer = PEERS[name]
    try:
        found = await run(peer, kind, work)
    except DurasleepError as error:
        report.notes.append(f"{name} was not measured: {error}")
        return None
    note = f"{name} {found.version} with --vs-concurrency {work.concurrency}: {peer.what}"
    if note not in report.notes:
        report.notes.append(note)
    return found
