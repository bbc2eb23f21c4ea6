"""Compares our scripts with npm's ``Server`` for as long as is wished: see ``scripts/resonate-differential``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from durasleep.settings import DEFAULTS
from durasleep.transport.connector import Connector
from durasleep.transport.sync_store import SyncStore
from harness import sdks
from harness.servers import FAKE, Server, Servers, found_kinds
from tests.gateway.differential import EACH_STATUS, Different, Oracle, Speaker, Spread, compare, oracle_of
from tests.gateway.scripts_of_ours import Ours

PARTITIONS = 4


def compare_all(oracle: Oracle, server: Server, spread: Spread, seeds: range, steps: int) -> Counter[tuple[str, int]]:
    """How often each kind had each status; Different for the first answer that is not the same."""
    client: Any = server.sync_client()
    found = Counter[tuple[str, int]]()
    for seed in seeds:
        server.flush()
        store = SyncStore(Connector.of(client), namespace="differential", settings=DEFAULTS, name="differential")
        store.partitions.set_count(1 if spread is Spread.ONE else PARTITIONS)
        held = Speaker(seed, oracle, spread).speak(steps)
        compare(held, Ours(client, store.keyspaces, is_told_at_once=spread is Spread.APART))
        found += held.counts
    return found


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/resonate-differential", description=__doc__)
    parser.add_argument("seeds", type=int, help="how many conversations, in each spread and on each server")
    parser.add_argument("steps", type=int, help="requests of each; whenever time passes, everything is read, too")
    parser.add_argument("--first", type=int, default=1_000, help="the first seed (default: %(default)s)")
    parser.add_argument("--servers", default="", help="separated by commas (default: all real ones that are found)")
    options = parser.parse_args()
    kinds = options.servers.split(",") if options.servers else [kind for kind in found_kinds() if kind != FAKE]
    typescript = sdks.typescript()
    seeds = range(options.first, options.first + options.seeds)
    with tempfile.TemporaryDirectory() as folder, oracle_of(typescript.node, typescript.package) as oracle:
        servers = Servers(Path(folder))
        try:
            for kind in kinds:
                for spread in Spread:
                    found = compare_all(oracle, servers.get(kind), spread, seeds, options.steps)
                    missing = [
                        (name, one) for name, each in EACH_STATUS.items() for one in each if not found[name, one]
                    ]
                    _write(f"{kind}, {spread.value}: {found.total()} answers, none different; not seen: {missing}")
        except Different as different:
            _write(str(different))
            return 1
        finally:
            servers.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
