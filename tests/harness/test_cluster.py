"""The clusters of our tests do what their methods say, so that a test of something else can rely on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from harness.cluster import KEYS_A_STEP, SLOTS, Cluster, Node
from harness.servers import find
from tests.service.workers import eventually

pytestmark = pytest.mark.long

KEYS = [f"{{a}}{number}" for number in range(2 * KEYS_A_STEP + 5)]
SLOT = key_slot(b"a")


def fill(cluster: Cluster) -> Node:
    """Keys in one slot; returns its node."""
    node = cluster.node_of(SLOT)
    for key in KEYS:
        node.ask("SET", key, key)
    return node


def another_master(cluster: Cluster, node: Node) -> Node:
    return next(one for one in cluster.masters() if one is not node)


def test_masters_share_all_slots_and_each_has_a_replica(cluster: Cluster) -> None:
    masters = cluster.masters()
    assert len(masters) == 3
    assert [len(cluster.replicas_of(master)) for master in masters] == [1, 1, 1]
    assert {cluster.node_of(slot) for slot in (0, SLOTS // 2, SLOTS - 1)} == set(masters)
    assert cluster.urls == [f"redis://127.0.0.1:{node.port}" for node in cluster.nodes]
    assert cluster.url == "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)


def test_a_moved_slot_has_its_keys_at_the_other_node(cluster: Cluster) -> None:
    source = fill(cluster)
    to = another_master(cluster, source)
    cluster.move_slot(SLOT, to)
    cluster.await_health()
    assert cluster.node_of(SLOT) is to
    assert [to.ask("GET", key) for key in KEYS] == KEYS
    with pytest.raises(redis.ResponseError, match=str(to.port)):
        source.ask("GET", KEYS[0])
    cluster.move_slot(SLOT, source)


def test_a_move_can_stand_still_in_the_middle_and_is_finished_by_healing(cluster: Cluster) -> None:
    source = fill(cluster)
    to = another_master(cluster, source)
    cluster.begin_move(SLOT, to)
    assert cluster.move_some_keys(SLOT) == KEYS_A_STEP
    here, there = (node.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) for node in (source, to))
    assert (here, there) == (len(KEYS) - KEYS_A_STEP, KEYS_A_STEP)
    assert cluster.node_of(SLOT) is source
    cluster.heal()
    assert cluster.node_of(SLOT) is to
    assert to.ask("DBSIZE") == 0
    cluster.move_slot(SLOT, source)


def test_a_replica_that_takes_over_has_the_slots_of_its_master(cluster: Cluster) -> None:
    master = cluster.masters()[0]
    [replica] = cluster.replicas_of(master)
    cluster.failover(replica)
    assert cluster.masters()[0] is replica
    cluster.await_health()
    assert cluster.replicas_of(replica) == [master]


async def test_a_killed_master_is_replaced_and_follows_when_it_is_revived(cluster: Cluster) -> None:
    master = cluster.masters()[1]  # the others do not vote twice in a row for a replica of the first
    [replica] = cluster.replicas_of(master)
    cluster.kill(master)
    with pytest.raises(redis.ConnectionError):
        master.ask("PING")
    await eventually(lambda: replica in cluster.masters(), "the replica to take over")
    cluster.revive(master)
    cluster.await_health()
    assert cluster.replicas_of(replica) == [master]


def test_a_paused_node_answers_when_it_is_resumed(cluster: Cluster) -> None:
    [replica] = cluster.replicas_of(cluster.node_of(SLOT))
    cluster.pause(replica)
    impatient = redis.Redis(port=replica.port, socket_timeout=0.1, retry=Retry(NoBackoff(), 0))
    with impatient, pytest.raises(redis.TimeoutError):
        impatient.ping()
    cluster.resume(replica)
    assert replica.ask("PING") == "PONG"


@pytest.mark.parametrize("kind", ["redis62", "redis8"])
def test_other_kinds_make_clusters_too(kind: str, tmp_path: Path) -> None:
    if not find(kind):
        pytest.skip(f"{kind} is not installed")
    cluster = Cluster(kind, tmp_path, masters=1, replicas=1, persist=False)
    try:
        cluster.start()
        assert cluster.node_of(SLOT) is cluster.nodes[0]
        assert cluster.replicas_of(cluster.nodes[0]) == [cluster.nodes[1]]
    finally:
        cluster.stop()
