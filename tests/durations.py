"""The durations of the tests: pytest prints the whole at its start, and the longest tests begin first.

``durations.json`` has the seconds of each long test function, and of the others by their file, as measured with four at
a time on two cores. ``--write-durations`` writes it again, from this run.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, cast

import pytest

TABLE = Path(__file__).with_name("durations.json")
LONG_S = 1.0
START_S = 10.0  # until the first test begins: every process imports and collects all of them
UNKNOWN = "others"  # the name for a new file


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-durations", action="store_true", help="write tests/durations.json anew, from this run")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist has it: its controller does all this
        config.pluginmanager.register(Teller(config))


def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: three at a time for each core, because tests wait longer than they compute."""
    return 3 * (os.cpu_count() or 1)


@pytest.hookimpl(trylast=True)  # when the other tests are in their random order
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        table = read_table()
        items.sort(key=lambda item: rank(seconds_of(item.nodeid, table)))


def rank(seconds: float) -> float:
    """The longest first; short tests stay in their random order."""
    return -seconds if seconds >= LONG_S else 0.0


def read_table() -> dict[str, float]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def function_of(id: str) -> str:
    """``tests/a.py::test_b[redis7]`` is a case of ``tests/a.py::test_b``."""
    return id.partition("[")[0]


def file_of(id: str) -> str:
    return id.partition("::")[0]


def seconds_of(id: str, table: dict[str, float]) -> float:
    """The time of one test."""
    return table.get(function_of(id), table.get(file_of(id), table.get(UNKNOWN, 0.0)))


def table_of(seconds: dict[str, float]) -> dict[str, float]:
    """The durations of all tests, from the time of each."""
    functions, files = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for id, took in seconds.items():
        functions[function_of(id)].append(took)
    long = {function: mean(took) for function, took in functions.items() if mean(took) >= LONG_S}
    for function, took in functions.items():
        if function not in long:
            files[file_of(function)] += took
    rest = {file: mean(took) for file, took in files.items()}
    others = mean(took for each in files.values() for took in each) if files else 0.0
    return {name: round(took, 3) for name, took in sorted((long | rest | {UNKNOWN: others}).items())}


def in_words(seconds: float) -> str:
    """Rounded up, because it is only an estimate."""
    if seconds <= 90:
        return f"{10 * max(1, round(seconds / 10 + 0.4))} seconds"
    return f"{round(seconds / 60 + 0.4)} minutes"


class Teller:
    """Prints how long the run will take, and stores how long it took."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._told = False
        self._seconds = defaultdict[str, float](float)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not self._config.getoption("numprocesses", None):
            self._notify([item.nodeid for item in session.items], 1)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """All workers collect the same tests; the first report counts."""
        if not self._told:
            processes = cast("list[str]", self._config.getoption("tx"))
            self._notify(ids, len(processes))

    def _notify(self, ids: Iterable[str], at_a_time: int) -> None:
        self._told = True
        table = read_table()
        each = [seconds_of(id, table) for id in ids]
        seconds = START_S + max([sum(each) / at_a_time, *each])
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal and each and not self._config.getoption("collectonly"):
            terminal.ensure_newline()
            terminal.write_line(f"{len(each)} tests, {at_a_time} at a time: about {in_words(seconds)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        if self._config.getoption("write_durations"):
            TABLE.write_text(json.dumps(table_of(self._seconds), indent=2) + "\n", encoding="utf-8")
