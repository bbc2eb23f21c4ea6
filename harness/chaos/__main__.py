"""Runs the chaos: starts work, breaks things by the plan, repairs everything, waits, and checks.

Every execution must end, once, with its own result. No step is lost or done more often than the faults allow, no sleep
is too short, transactions count once, and fsck finds nothing.

With --cluster Redis is a cluster of three masters, each with a replica, under eight partitions. Masters are killed and
paused under load, change places with their replicas, and hand over slots; clients lose their way to single nodes. A
cluster replicates later than it confirms, so every write waits for a replica: then nothing that was confirmed may be
lost. With --min-replicas 0 a failover may lose it; what is called again must then end as if it had not been lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from durasleep import DurasleepError, Handle, StoreUnavailable
from durasleep.query.fsck import Report
from harness.chaos import check, reach
from harness.chaos.around import Around
from harness.chaos.cluster import NODES, ClusterSite
from harness.chaos.faults import ServerSite
from harness.chaos.plan import AROUND, CLUSTER, FAULTS, plan
from harness.chaos.site import Site
from harness.chaos.work import (
    ALONE,
    LIMITED,
    WORKFLOWS,
    app,
    arguments_of,
    child,
    counter_of,
    id_of,
    one_at_a_time,
    sent_away,
)
from harness.servers import EMBEDDED, FAKE, KINDS

WORKERS = 3
STARTS_A_S = 8.0
QUIET_S = 120.0  # for all executions to end
COUNTING, SENDING_AWAY = 2, 7
PRIORITIES = (1, 3, 3, 3, 5)
CROWD = 9
"""So many are started in one go where a limit lets few in at a time."""
REPEATING = (
    *("kill-worker", "pause-worker", "kill-redis", "failover", "black-hole", "stall", "block-redis", "cut"),
    *("kill-master", "pause-node", "hand-over", "move-slot", "cut-off"),
)
"""Faults after which a step may run again."""

logger = logging.getLogger("durasleep")


class Work:
    """The started executions, and their results."""

    def __init__(self, seed: int) -> None:
        self.shapes: dict[str, int] = {}
        self.results: dict[str, list[str]] = {}
        self.refused = 0
        """Calls that gave up after their time limit, as they should."""
        self._chance = random.Random(seed + 1)
        self._seed = seed

    async def go_on(self) -> None:
        """Start one execution after the other, and settle promises that wait for a person, until cancelled."""
        while True:
            shape = self._chance.randrange(len(WORKFLOWS))
            for _ in range(CROWD if shape == LIMITED else 1):
                number = len(self.shapes)
                id = id_of(shape, f"{WORKFLOWS[shape].__name__}-{self._seed}-{number}", number)
                with suppress(DurasleepError):
                    await _call(id, shape, self._chance.choice(PRIORITIES))
                    self.shapes[id] = shape  # from here on it must never be lost
            await asyncio.sleep(self._chance.expovariate(STARTS_A_S))

    async def answer(self) -> None:
        """Settle the promises of waiting executions, again and again, until cancelled."""
        while True:
            for id, shape in tuple(self.shapes.items()):
                if shape == 4 and id not in self.results:
                    with suppress(DurasleepError):
                        await app.promises.resolve(f"{id}~1", "an answer")
            await asyncio.sleep(0.5)

    async def collect(self, *, restart: bool) -> None:
        """All results, twice each. With ``restart``, executions that a rollback may have lost are called again."""
        for id, shape in self.shapes.items():
            handle = await _call(id, shape) if restart else app.get(id, str)
            with suppress(DurasleepError, asyncio.TimeoutError):
                told = [await handle.result(timeout=QUIET_S), await app.get(id, str)]
                self.results[id] = told  # not before: its promises are settled until it has a result
            for away in sent_away(id) if shape == SENDING_AWAY else ():
                with suppress(DurasleepError, asyncio.TimeoutError):
                    handle = await app.rpc(away, child, 1) if restart else app.get(away, int)
                    await handle.result(timeout=QUIET_S)


async def _call(id: str, shape: int, priority: int = 3) -> Handle[str]:
    return await app.options(priority=priority).rpc(id, WORKFLOWS[shape].__name__, *arguments_of(shape, id))


def make_site(options: argparse.Namespace, directory: Path, names: Sequence[str]) -> Site:
    if options.cluster:
        return ClusterSite(
            directory,
            kind=options.cluster,
            workers=WORKERS,
            fsync=options.fsync,
            min_replicas=options.min_replicas,
            seed=options.seed,
        )
    return ServerSite(
        directory, workers=WORKERS, fsync=options.fsync, with_replica="failover" in names, other=options.other
    )


def fault_names(options: argparse.Namespace) -> list[str]:
    """Those that were asked for, else all but the ones that lose writes or change what can be served."""
    if options.faults:
        return options.faults.split(",")
    if options.cluster:
        return list(CLUSTER)
    return [name for name in FAULTS if name != "failover"] + list(AROUND if options.around else ())


async def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """One run; returns its results. ``violations`` are the promises it has broken."""
    names = fault_names(options)
    seconds = options.minutes * 60
    faults = plan(options.seed, seconds, names, NODES if options.cluster else WORKERS)
    site = make_site(options, directory, names)
    work = Work(options.seed)
    around: Around | None = None
    try:
        await site.start()
        os.environ.update(site.environment)
        app.settings = reach.settings()
        app.connect(reach.source())
        await app.init(partitions=site.partitions)
        async with app:
            site.start_workers()
            await app.schedules.put(ALONE, one_at_a_time, every="1s", overlap="skip")
            if options.around:
                around = Around(directory, options.seed)
                await around.start()
            going = [asyncio.create_task(work.go_on()), asyncio.create_task(work.answer())]
            began = time.monotonic()
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
                await site.do(fault)
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            going[0].cancel()
            await site.repair()
            if around:
                await around.stop()
            quiet = time.monotonic()
            await work.collect(restart=any(site.done[name] for name in site.rolls_back))
            going[1].cancel()
            await asyncio.gather(*going, return_exceptions=True)
            took_s = time.monotonic() - quiet
            found = await _schedule_is_stuck(site)
            found += await around.violations() if around else []
            report = await _fsck()
            counters = await _counters(site, work)
    finally:
        await site.stop()
    effects = check.read_effects(site.effects)
    found += check.violations(
        work.shapes, work.results, effects, counters, repeats_max=sum(site.done[name] for name in REPEATING)
    )
    found += check.overlaps(effects)
    # Killed clients are among the waiters of an execution until it has ended.
    found += [f"fsck: {one.kind}: {one.id} {one.text}" for one in report.findings if one.kind != "client"]
    log = site.log.read_text(errors="replace")
    found += [f"a fault of ours: {line}" for line in log.splitlines() if "fault in durasleep" in line][:5]
    if (around or options.cluster) and site.deserted:
        found.append(f"{site.deserted} workers have left though nobody told them to")
    repeated = sum(len(times) - 1 for label, times in effects.items() if "tries" not in label)
    return {
        "seed": options.seed,
        "fsync": options.fsync,
        "minutes": options.minutes,
        "executions": dict(Counter(WORKFLOWS[shape].__name__ for shape in work.shapes.values())),
        "faults": dict(site.done),
        "taken_over": log.count(" is dead: "),
        "effects": sum(map(len, effects.values())),
        "repeated_effects": repeated,
        "quiet_s": round(took_s, 1),
        **({"around": around.report()} if around else {}),
        "checked": dict(report.checked),
        "violations": found,
    }


async def _schedule_is_stuck(site: Site) -> list[str]:
    """Wait until it has started one more execution; not if that never happens."""
    known, give_up_at = _begun(site), time.monotonic() + QUIET_S
    while _begun(site) == known:
        if time.monotonic() > give_up_at:
            return [f"{ALONE} starts nothing any more"]
        await asyncio.sleep(0.1)
    await app.schedules.delete(ALONE)
    return []


def _begun(site: Site) -> int:
    return sum(map(check.is_begin, check.read_effects(site.effects)))


async def _fsck() -> Report:
    """When nothing changes any more: all families are closed by then."""
    while True:
        try:
            return await app.fsck()
        except StoreUnavailable:
            await asyncio.sleep(0.5)


async def _counters(site: Site, work: Work) -> dict[str, int]:
    ids = [id for id, shape in work.shapes.items() if shape == COUNTING]
    names = [await app.key(id, counter_of(id)) if reach.is_cluster() else counter_of(id) for id in ids]
    return {id: int(value or 0) for id, value in zip(ids, await site.read(names), strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument(
        "--faults",
        default="",
        help=f"of {', '.join(FAULTS)}; all but failover by default. In a cluster all of {', '.join(CLUSTER)}",
    )
    kinds = [kind for kind in KINDS if kind != FAKE]
    parser.add_argument("--cluster", nargs="?", const=EMBEDDED, choices=kinds, help=f"of {EMBEDDED} by default")
    parser.add_argument("--min-replicas", type=int, default=1, help="in a cluster, for every write; by default 1")
    parser.add_argument("--other", type=Path, metavar="DIRECTORY", help="half of the workers are of the version there")
    parser.add_argument("--around", action="store_true", help="beside it: threads, forks, loops, bad schedules, ...")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.cluster and options.other:
        parser.error("workers of another version are not for a cluster")
    known = CLUSTER if options.cluster else (*FAULTS, *AROUND)
    if unknown := {name for name in options.faults.split(",") if name} - {*known}:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    logging.getLogger("durasleep").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="durasleep-chaos-") as name:
        report = asyncio.run(run(options, Path(name)))
        if report["violations"]:
            kept = Path(tempfile.mkdtemp(prefix="durasleep-chaos-kept-"))
            for file in ("effects", "workers.log", "clients", "around.log"):
                if (Path(name) / file).exists():
                    (kept / file).write_bytes((Path(name) / file).read_bytes())
            print(f"effects and logs of the workers are kept in {kept}", file=sys.stderr)
    if options.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            if key != "violations":
                print(f"{key:>18}  {value}")
        print(f"{'violations':>18}  {len(report['violations']) or 'none'}")
        for line in report["violations"]:
            print(f"  {line}")
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
