"""``durasleep init``, ``partitions`` and ``worker --partitions``."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import Terminal

APP = """
from durasleep import Durasleep
app = Durasleep()

@app.task
def double(number: int) -> int:
    return 2 * number
"""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(computing=APP)


def test_each_partition_tells_what_it_has_and_who_serves_it(here: Terminal, quick: Quick) -> None:
    made = quick(here, "init", "--partitions", "4")
    assert (made.code, made.err.strip()) == (0, "namespace 'durasleep' has 4 partitions")
    with here.running("worker", "computing", "--name", "w", "--partitions", "0-1,3", until="is ready"):
        quick(here, "rpc", "{b}", "double", "1", "--no-wait", "--target", "elsewhere")
        found = json.loads(quick(here, "partitions", "--json").out)
        assert [one["workers"] for one in found] == [["w"], ["w"], [], ["w"]]
        assert [one["queues"] for one in found if one["queues"]] == [{"elsewhere": 1}]
        lines = quick(here, "partitions").out.splitlines()
        assert [line.split()[-1] for line in lines] == ["WORKERS", "w", "w", "none", "w"]


@pytest.mark.parametrize("text", ["3-1", "256", "all", "", "1,,2", "-1"])
def test_what_are_no_partitions_is_said(here: Terminal, quick: Quick, text: str) -> None:
    done = quick(here, "worker", "computing", f"--partitions={text}")
    assert done.code == 2
    assert f"--partitions {text!r}: write numbers and ranges from 0 to 255, such as 0-3,8" in " ".join(done.err.split())


def test_a_worker_for_partitions_that_the_namespace_lacks_does_not_start(here: Terminal, quick: Quick) -> None:
    quick(here, "init", "--partitions", "4")
    done = quick(here, "worker", "computing", "--partitions", "3-5")
    assert (done.code, done.err) == (2, "error: namespace 'durasleep' has partitions 0 to 3: there is no partition 5\n")
    assert quick(here, "worker", "computing", "--partitions", "3-5", "--processes", "2").code == 2, "they are told, too"
