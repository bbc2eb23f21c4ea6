"""The printed duration of the tests comes from their measured durations."""

from __future__ import annotations

import pytest

from tests import durations

SECONDS = {
    "tests/a.py::test_long[redis7]": 2.0,
    "tests/a.py::test_long[valkey8]": 4.0,
    "tests/a.py::test_short": 0.25,
    "tests/a.py::test_shorter[1]": 0.15,
    "tests/b.py::test_short": 0.5,
}


def test_long_functions_are_kept_each_and_others_by_their_file() -> None:
    assert durations.table_of(SECONDS) == {
        "tests/a.py": 0.2,
        "tests/a.py::test_long": 3.0,
        "tests/b.py": 0.5,
        "others": 0.3,
    }


@pytest.mark.parametrize(
    ("id", "seconds"),
    [
        ("tests/a.py::test_long[another]", 3.0),
        ("tests/a.py::test_new", 0.2),
        ("tests/new.py::test_new[redis7]", 0.3),
    ],
)
def test_a_test_nobody_has_timed_takes_what_its_neighbours_take(id: str, seconds: float) -> None:
    assert durations.seconds_of(id, durations.table_of(SECONDS)) == seconds


def test_the_longest_are_first_and_the_short_stay_in_their_order() -> None:
    seconds = [0.2, 3.0, 0.9, 1.0, 20.0, 0.1]
    assert sorted(seconds, key=durations.rank) == [20.0, 3.0, 1.0, 0.2, 0.9, 0.1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.3, "10 seconds"), (11.0, "20 seconds"), (58.0, "60 seconds"), (91.0, "2 minutes"), (301.0, "5 minutes")],
)
def test_it_is_told_in_round_numbers(seconds: float, words: str) -> None:
    assert durations.in_words(seconds) == words
