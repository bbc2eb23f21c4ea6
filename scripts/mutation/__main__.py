"""The command: ``scripts/mutate [options]``."""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scripts.mutation import explained, lua_rules, python_rules
from scripts.mutation.bench import Bench, UndisturbedFailure, Verdict
from scripts.mutation.lua_rules import LUA
from scripts.mutation.mutant import Mutant

ROOT = Path(__file__).parents[2]
WORKER = Path("durasleep/worker")
EXPLAINED = Path(__file__).parent / "explained.toml"
LEFT_MAX = 1 / 20  # of all mutants, each explained
_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


def main() -> int:
    options = _options()
    made = [mutant for path in _paths() for mutant in _mutants(path)]
    reasons = explained.read(EXPLAINED)
    stale = reasons.keys() - {mutant.name for mutant in made}
    chosen = [mutant for mutant in made if _is_under(mutant.path, options.only)]
    if options.since:
        changed = _changed_since(options.since)
        chosen = [mutant for mutant in chosen if mutant.line in changed.get(mutant.path, ())]
    if options.sample is not None and options.sample < len(chosen):
        picked = random.Random(options.seed).sample(range(len(chosen)), options.sample)
        chosen = [chosen[at] for at in sorted(picked)]
    if options.list:
        for mutant in chosen:
            print(_line(mutant))
        return 0
    known = [mutant for mutant in chosen if mutant.name in reasons]
    try:
        verdicts = _run([mutant for mutant in chosen if mutant.name not in reasons], options)
    except UndisturbedFailure as failure:
        sys.exit(str(failure))
    return _report(verdicts, known, sorted(stale))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/mutate",
        description="Makes one small change at a time to the worker and to the Lua, runs the tests that could notice, "
        "and names the changes that none noticed. Explained ones, see explained.toml, are not run.",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATH", help="only this file or folder; may be repeated"
    )
    parser.add_argument("--since", metavar="REVISION", help="only lines changed since a revision of git")
    parser.add_argument("--sample", type=int, metavar="N", help="only this many, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="the seed of --sample (default: 0)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="how many run at a time (default: as many as cores)"
    )
    parser.add_argument(
        "--servers", default="redis7", help="where the tests run, see tests/conftest.py (default: redis7)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="of Lua: only the tests that are nearest, and not the model, for a first look",
    )
    parser.add_argument("--list", action="store_true", help="only name the mutants")
    return parser.parse_args()


def _paths() -> list[str]:
    found = [*(ROOT / WORKER).rglob("*.py"), *(ROOT / LUA).rglob("*.lua")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def _mutants(path: str) -> list[Mutant]:
    rules = lua_rules if path.endswith(".lua") else python_rules
    return rules.mutants(path, (ROOT / path).read_text(encoding="utf-8"))


def _is_under(path: str, only: Sequence[str]) -> bool:
    return not only or any(path == one.rstrip("/") or path.startswith(one.rstrip("/") + "/") for one in only)


def _changed_since(revision: str) -> dict[str, set[int]]:
    """The new or changed lines, by file."""
    changed: dict[str, set[int]] = {}
    for path in _paths():
        diff = subprocess.run(
            ["git", "diff", "--unified=0", revision, "--", path], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for first, count in _HUNK.findall(diff):
            changed.setdefault(path, set()).update(range(int(first), int(first) + int(count or 1)))
    return changed


def _run(mutants: Sequence[Mutant], options: argparse.Namespace) -> list[tuple[Mutant, Verdict]]:
    verdicts: list[tuple[Mutant, Verdict]] = []
    began = time.monotonic()

    def note(mutant: Mutant, verdict: Verdict) -> None:
        verdicts.append((mutant, verdict))
        if verdict is not Verdict.KILLED:
            print(f"{verdict}: {_line(mutant)}", flush=True)
        if len(verdicts) % 50 == 0:
            print(f"{len(verdicts)} of {len(mutants)} after {time.monotonic() - began:.0f} s", flush=True)

    print(f"{len(mutants)} mutants", flush=True)
    of_lua = [mutant for mutant in mutants if mutant.path.endswith(".lua")]
    of_python = [mutant for mutant in mutants if not mutant.path.endswith(".lua")]
    with tempfile.TemporaryDirectory(prefix="durasleep-mutants-") as directory:
        if of_python:
            bench = Bench(ROOT, Path(directory), options.processes, options.servers)
            bench.prepare()
            for mutant, verdict in bench.run(of_python):
                note(mutant, verdict)
        if of_lua:  # last: from here on this process has imported what those tests shall find in their copies
            from scripts.mutation.lua_bench import LuaBench

            LuaBench(Path(directory) / "lua", options.processes, options.servers, is_quick=options.quick).run(
                of_lua, note
            )
    return verdicts


def _report(
    verdicts: Sequence[tuple[Mutant, Verdict]], known: Sequence[Mutant], stale: Sequence[tuple[str, str, str]]
) -> int:
    """Print the mutants left, by file; 1 if they are too many or not explained, or if an explanation has no mutant."""
    counts = Counter(verdict for _, verdict in verdicts)
    total, survivors = (
        len(verdicts) + len(known),
        [mutant for mutant, verdict in verdicts if verdict is Verdict.SURVIVED],
    )
    left = len(survivors) + len(known)
    print(
        f"\n{total} mutants: {counts[Verdict.KILLED]} killed, {counts[Verdict.TIMEOUT]} timed out, "
        f"{len(known)} explained, {len(survivors)} survived; {100 * left / max(1, total):.1f} % are left"
    )
    for mutant in sorted(survivors, key=lambda mutant: (mutant.path, mutant.line)):
        print(f"SURVIVED {_line(mutant)}")
    for path, where, change in stale:
        print(f"STALE in {EXPLAINED.name}: there is no such mutant any more: {path} {where}: {change}")
    return int(bool(survivors or stale) or left > LEFT_MAX * total)


def _line(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} {mutant.where}: {mutant.change}"


if __name__ == "__main__":
    sys.exit(main())
