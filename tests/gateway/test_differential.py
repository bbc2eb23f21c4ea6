"""Our scripts answer Resonate's protocol as the ``Server`` of npm's SDK does, and send its messages.

Where the two differ on purpose, our own rule is tested. ``scripts/resonate-differential`` compares far more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from durasleep.settings import DEFAULTS
from durasleep.transport.connector import Connector
from durasleep.transport.sync_store import SyncStore
from harness import sdks
from harness.servers import FAKE, Server
from tests.gateway.differential import (
    EACH_STATUS,
    FAR_MS,
    FIRST_MS,
    VERSION,
    Conversation,
    Data,
    Oracle,
    Speaker,
    Spread,
    Step,
    compare,
    oracle_of,
)
from tests.gateway.scripts_of_ours import Ours

pytestmark = [pytest.mark.leaves_keys("promises are kept for a week"), pytest.mark.timeout(600)]  # npm may be slow

SEEDS, STEPS = 20, 500
PARTITIONS = 4


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """npm's ``Server``; without a Node 22, a failure says how to get it."""
    typescript = sdks.typescript()
    with oracle_of(typescript.node, typescript.package) as oracle:
        yield oracle


@cache
def conversation(oracle: Oracle, seed: int, steps: int = STEPS, spread: Spread = Spread.ONE) -> Conversation:
    """The same for each kind of server."""
    return Speaker(seed, oracle, spread).speak(steps)


def ours(server: Server, namespace: str, partitions: int = 1, *, is_told_at_once: bool = False) -> Ours:
    """Our scripts in an empty namespace; ``no_leaks`` removes it."""
    client: Any = server.sync_client()
    names = [*client.scan_iter(match=f"{{{namespace}:*", count=1_000)]
    if names:
        client.delete(*names)
    store = SyncStore(Connector.of(client), namespace=namespace, settings=DEFAULTS, name="differential")
    store.partitions.set_count(partitions)
    return Ours(client, store.keyspaces, is_told_at_once=is_told_at_once)


@pytest.mark.long
def test_every_answer_and_message_is_that_of_the_sdks_own_server(
    one_server: Server, namespace: str, oracle: Oracle
) -> None:
    found = Counter[tuple[str, int]]()
    for seed in range(SEEDS):
        held = conversation(oracle, seed)
        compare(held, ours(one_server, namespace))
        found += held.counts

    assert {kind for kind, _ in found} == {*EACH_STATUS, "tick"}
    assert [(kind, status) for kind, each in EACH_STATUS.items() for status in each if not found[kind, status]] == []


@pytest.mark.long
def test_it_is_so_on_every_server(server: Server, namespace: str, oracle: Oracle) -> None:
    for seed in range(1 if server.kind == FAKE else 2):
        compare(conversation(oracle, seed, STEPS // 5), ours(server, namespace))


@pytest.mark.long
@pytest.mark.parametrize(("spread", "steps"), [(Spread.WITHIN, 500), (Spread.APART, 200)])
def test_and_in_several_partitions(
    one_server: Server, namespace: str, oracle: Oracle, spread: Spread, steps: int
) -> None:
    scripts = ours(one_server, namespace, PARTITIONS, is_told_at_once=spread is Spread.APART)
    compare(conversation(oracle, 1, steps, spread), scripts)


# -- what we do otherwise


class Asked:
    """Requests to our scripts, at a time that stands still until it is moved."""

    def __init__(self, scripts: Ours) -> None:
        self._scripts = scripts
        self.now = FIRST_MS

    def ask(self, kind: str, /, **data: Data) -> tuple[int, Data]:
        return self._hold("ask", {"kind": kind, "head": HEAD, "data": data})

    def create(self, id: str, timeout_ms: int = FAR_MS, **tags: Data) -> tuple[int, Data]:
        """A promise with some of the tags ``resonate:...``."""
        named = {f"resonate:{name}": tag for name, tag in tags.items()}
        return self.ask("promise.create", id=id, timeoutAt=timeout_ms, param={}, tags=named)

    def hold(self, id: str) -> None:
        """A task is made and acquired, in version 1."""
        assert self.create(id, target=ANY)[0] == 200
        assert self.ask("task.acquire", id=id, version=0, pid="p", ttl=1_000_000)[0] == 200

    def suspend(self, id: str, *awaited: str) -> tuple[int, Data]:
        actions = [
            {"kind": "promise.register_callback", "head": HEAD, "data": {"awaited": one, "awaiter": id}}
            for one in awaited
        ]
        return self.ask("task.suspend", id=id, version=1, actions=actions)

    def tick(self) -> None:
        self._hold("tick", None)

    def take(self, *addresses: str) -> Data:
        """The messages, without those that prefer a process saying so."""
        _, found = self._hold("take", list(addresses or [ANY]))
        return [message["data"].get("task") for messages in found.values() for _, message in messages]

    def _hold(self, what: str, request: Data) -> tuple[int, Data]:
        [answer] = self._scripts.hold([Step(what, self.now, request, (0, None))])
        return answer


ANY = "poll://any@w"
HEAD = {"corrId": "c", "version": VERSION}


@pytest.fixture
def asked(server: Server, namespace: str) -> Asked:
    return Asked(ours(server, namespace))


def test_a_timer_with_a_target_is_never_executed(asked: Asked) -> None:
    """The reference executes it every 30 s, until it fires."""
    asked.create("t", asked.now + 100_000, target=ANY, timer="true")
    for _ in range(4):
        assert asked.take() == []
        asked.now += 31_000
        asked.tick()

    _, data = asked.ask("promise.get", id="t")
    assert (data["promise"]["state"], data["promise"]["settledAt"]) == ("resolved", FIRST_MS + 100_000)
    assert asked.take() == []


@pytest.mark.parametrize("tags", [{"timer": "true"}, {"external": "true"}, {"scope": "global"}])
def test_what_has_no_target_settles_at_its_deadline_by_itself(asked: Asked, tags: dict[str, str]) -> None:
    """In the reference somebody has to ask for it."""
    asked.hold("p")
    asked.take()
    asked.create("p:1", asked.now + 1_000, **tags)
    assert asked.suspend("p", "p:1") == (200, {})

    asked.now += 999
    asked.tick()
    assert asked.take() == []

    asked.now += 1
    asked.tick()
    assert asked.take() == [{"id": "p", "version": 1}]


def test_an_internal_promise_cannot_be_awaited(asked: Asked) -> None:
    asked.hold("p")
    asked.create("p:1", scope="local", branch="p")
    asked.create("p:2", external="true")

    assert asked.ask("promise.register_callback", awaited="p:1", awaiter="p")[0] == 422
    assert asked.suspend("p", "p:2", "p:1")[0] == 422
    assert asked.ask("promise.register_listener", awaited="p:1", address="poll://uni@w/p")[0] == 422
    asked.ask("promise.settle", id="p:2", state="resolved", value={})
    assert asked.ask("task.get", id="p")[1]["task"] == {
        "id": "p",
        "state": "acquired",
        "version": 1,
        "resumes": 0,
        "ttl": 1_000_000,
        "pid": "p",
    }, "the refused request has changed nothing"


def test_a_task_is_not_executed_after_its_deadline(asked: Asked) -> None:
    """The reference sends the message if nobody has looked at the task since."""
    asked.create("p", asked.now + 1_000, target=ANY)
    asked.create("p:x", external="true")
    asked.ask("task.acquire", id="p", version=0, pid="p", ttl=1_000_000)
    assert asked.suspend("p", "p:x") == (200, {})

    asked.now += 1_000
    asked.ask("promise.settle", id="p:x", state="resolved", value={})
    assert asked.take() == []
    assert asked.ask("task.get", id="p")[1]["task"]["state"] == "fulfilled"


def test_a_message_that_nobody_takes_is_there_once(asked: Asked) -> None:
    """The reference sends it every 30 s; ours are sent again 30 s after they were taken."""
    asked.create("p", target=ANY)
    for _ in range(3):
        asked.now += 61_000
        asked.tick()
    assert asked.take() == [{"id": "p", "version": 0}]

    asked.now += 29_999
    asked.tick()
    assert asked.take() == []
    asked.now += 1
    asked.tick()
    assert asked.take() == [{"id": "p", "version": 0}]


@pytest.mark.parametrize("cron", ["", "* * * *"])
def test_a_cron_line_has_five_fields(asked: Asked, cron: str) -> None:
    """The reference takes fewer."""
    made = {"promiseId": "{{.id}}", "promiseTimeout": 1, "promiseParam": {}, "promiseTags": {"resonate:target": ANY}}
    assert asked.ask("schedule.create", id="s", cron=cron, **made)[0] == 400
