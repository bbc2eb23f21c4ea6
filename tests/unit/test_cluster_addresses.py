"""Clusters by their URLs, and what their nodes answer, without a server."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio

from durasleep import UsageError
from durasleep.protocol.partitions import SLOTS
from durasleep.protocol.slots import SlotRange, read_slots
from durasleep.transport.connector import Connector

ID = b"a" * 40


def test_a_url_names_nodes_and_how_to_connect_to_each() -> None:
    found = Connector.of(
        "rediss+cluster://me:secret@one,[::1]:8000,two:7000,one,three?ssl_ca_certs=ca.pem&health_check_interval=3"
    )
    assert found.topology is not None
    assert found.topology.seeds == (("one", 6379), ("::1", 8000), ("two", 7000), ("three", 6379))
    assert found.connection_class is redis.asyncio.SSLConnection
    assert (found.arguments["username"], found.arguments["password"]) == ("me", "secret")
    assert found.arguments["ssl_ca_certs"] == "ca.pem"
    assert not {"host", "port", "health_check_interval"} & found.arguments.keys()
    assert found.address == "the cluster of one:6379,::1:8000,two:7000,..."
    assert Connector.of("redis+cluster://one").address == "the cluster of one:6379"
    node = found.at(("two", 7001))
    assert (node.arguments["host"], node.arguments["port"], node.address) == ("two", 7001, "two:7001")
    assert node.topology is None


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_each_scheme_has_its_own(scheme: str) -> None:
    found = Connector.of(f"{scheme}+cluster://one,two/0")
    assert found.topology is not None
    assert found.connection_class is (
        redis.asyncio.SSLConnection if scheme.endswith(("ss", "ys")) else redis.asyncio.Connection
    )


@pytest.mark.parametrize("url", ["redis+cluster://one/3", "redis+cluster://one?db=3", "valkeys+cluster://one,two/3"])
def test_another_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        Connector.of(url)
    assert str(raised.value) == "a cluster has database 0 only, not 3: leave the number out"


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://one,",
        "redis+cluster://one:x,two",
        "redis+cluster://one/orders",
        "redis+cluster://one/0/1",
    ],
)
def test_a_url_that_is_wrong_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"the URL of a cluster is redis\+cluster://"):
        Connector.of(url)


def test_a_connection_needs_a_slot() -> None:
    with pytest.raises(AssertionError, match="node of a slot"):
        Connector.of("redis+cluster://one").open_async("test")


def parsed(*entries: list[Any]) -> list[SlotRange]:
    return read_slots().parse(list(entries))


def test_an_answer_names_the_master_of_each_range_and_its_replicas() -> None:
    old = [0, 5460, [b"10.0.0.1", 6379, ID], [b"10.0.0.4", 6380, ID]]
    new = [5461, SLOTS - 1, [b"two.local", 6379, ID, [b"ip", b"10.0.0.2"]]]
    first, second = parsed(old, new)
    assert first == SlotRange(0, 5460, ("10.0.0.1", 6379), (("10.0.0.4", 6380),))
    assert second == SlotRange(5461, SLOTS - 1, ("two.local", 6379))
    assert len(first) + len(second) == SLOTS


WITHOUT_HOST: list[tuple[list[Any], str]] = [
    ([None, 1, ID, [b"ip", b"10.0.0.1"]], ""),
    ([b"", 1, ID], ""),
    ([b"", 1, ID, []], ""),
    ([b"?", 1, ID, [b"ip", b"10.0.0.1"]], "10.0.0.1"),
    ([b"?", 1, ID, [b"ip", b""]], ""),
    ([b"one", 1], "one"),
]


@pytest.mark.parametrize(("node", "host"), WITHOUT_HOST)
def test_a_node_without_a_host_of_its_own(node: list[Any], host: str) -> None:
    assert parsed([0, 1, node])[0].master == (host, 1)


@pytest.mark.parametrize("entry", [[], [0, SLOTS, [b"", 1]], [2, 1, [b"", 1]], [0, 1], [0, 1, []], [b"a", 1, [b"", 1]]])
def test_what_is_no_answer_to_this_question_is_an_error(entry: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        parsed(entry)
