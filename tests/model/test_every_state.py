"""No scenario violates a law, in any order of events, and every state can still reach the end.

``DURASLEEP_MODEL_STATES=1000000`` also explores the larger scenarios, with this many states each.
"""

from __future__ import annotations

import os

import pytest

from tests.model.channel_scenarios import CHANNELS, LARGER_CHANNELS
from tests.model.explore import Scenario, explore
from tests.model.limit_scenarios import LIMITED
from tests.model.moves import Scripts
from tests.model.scenarios import LARGER, SCENARIOS

ASKED = int(os.environ.get("DURASLEEP_MODEL_STATES", "0"))
STATES_MAX = ASKED or 30_000

pytestmark = [pytest.mark.long, pytest.mark.timeout(0 if ASKED else 300)]

LARGEST = LARGER | LARGER_CHANNELS
CHOSEN = SCENARIOS | LIMITED | CHANNELS | (LARGEST if ASKED else {})


class InParts(Scripts):
    """No ending closes its family at once: all of it waits in ``closing``."""

    family_max = 0


class OneByOne(Scripts):
    """A limit lets one execution begin at a time; the firer goes on."""

    released_max = 1
    looks_max = 2


NO_ROOM = "a message to another partition that has no room"


class Narrow(Scripts):
    """A mailbox has room for one message."""

    mailbox_max = 1


@pytest.mark.parametrize("scenario", CHOSEN.values(), ids=CHOSEN.keys())
def test_every_law_holds_in_every_state_and_all_can_finish(scenario: Scenario) -> None:
    report = explore(scenario, states_max=STATES_MAX)
    assert not report.law, str(report)
    assert report.is_whole or scenario in LARGEST.values(), f"more than {report.states} states"
    assert not report.unused, "a scenario tries each fault that it names"


@pytest.mark.parametrize("name", ["a forced cancel", "children, of the family and not", "a cancel", "new runs"])
def test_families_that_are_closed_in_parts_keep_every_law(name: str) -> None:
    report = explore(SCENARIOS[name], InParts, states_max=STATES_MAX)
    assert not report.law, str(report)
    assert report.is_whole


@pytest.mark.parametrize("name", ["a limit of children", "a limit that is changed", "a rate of some"])
def test_limits_that_are_opened_in_parts_keep_every_law(name: str) -> None:
    report = explore(LIMITED[name], OneByOne, states_max=STATES_MAX)
    assert not report.law, str(report)
    assert report.is_whole


@pytest.mark.parametrize("name", ["messages", "a race of receives", NO_ROOM])
def test_full_mailboxes_keep_every_law(name: str) -> None:
    report = explore(CHANNELS[name], Narrow, states_max=STATES_MAX)
    assert not report.law, str(report)
    assert report.is_whole
