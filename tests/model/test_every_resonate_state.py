"""No scenario of Resonate's protocol violates a law, in any order of events, and every state can still reach the end.

``DURASLEEP_MODEL_STATES=1000000`` also explores the larger scenarios, with at most this many states each.
"""

from __future__ import annotations

import os

import pytest

from tests.model.resonate_scenarios import LARGER, SCENARIOS
from tests.model.resonate_search import explore
from tests.model.resonate_world import Scenario

ASKED = int(os.environ.get("DURASLEEP_MODEL_STATES", "0"))
CHOSEN = SCENARIOS | (LARGER if ASKED else {})

pytestmark = [pytest.mark.long, pytest.mark.timeout(0 if ASKED else 300)]


@pytest.mark.parametrize("scenario", CHOSEN.values(), ids=CHOSEN.keys())
def test_every_law_holds_in_every_state_and_all_can_finish(scenario: Scenario) -> None:
    found = explore(scenario, states_max=ASKED or 20_000)
    assert not found.law, str(found)
    assert found.is_whole or scenario in LARGER.values(), f"more than {found.states} states"
    assert not found.unused, "a scenario tries each fault that it names"
