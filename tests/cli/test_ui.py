"""`durasleep ui` refuses what would be unsafe, or cannot be, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Quick
from tests.cli.terminal import Terminal


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "0.0.0.0:0"], "other machines would reach it without a password"),
        (["--listen", "[::]:0"], "other machines would reach it without a password"),
        (["--listen", "here"], "write HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "write HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--trusted-proxy", "10.0.0.0/8"], "give both, or none of them"),
    ],
)
def test_it_refuses_in_one_sentence(options: list[str], said: str, tmp_path: Path, quick: Quick) -> None:
    ran = quick(Terminal(tmp_path), "ui", *options)
    assert (ran.code, said in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err
