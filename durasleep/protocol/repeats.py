"""What is noted of requests that their senders may repeat under a key, for a while."""

from __future__ import annotations

from dataclasses import dataclass

from durasleep.protocol.command import Command, Plan, unwrap
from durasleep.protocol.keys import Keyspace


@dataclass(frozen=True, slots=True)
class Claim:
    """What ``claim`` has found."""

    is_ours: bool
    """Whether nobody had used the key: it is ours now."""
    noted: bytes
    """What is noted under the key."""


def claim(keys: Keyspace, key: str, mark: bytes, *, ttl_ms: int) -> Plan[Claim]:
    """Note ``mark`` under a key that nobody uses, for a while; else find what is noted there.

    ``mark`` must be one that nobody else notes.
    """
    name = keys.repeat(key)
    noted: bytes | None = None
    while noted is None:  # it may expire between the two commands
        claimed, answer = yield [
            Command([b"SET", name, mark, b"NX", b"PX", str(ttl_ms)], bool),
            Command([b"GET", name], lambda value: value),
        ]
        unwrap(claimed)
        noted = unwrap(answer)
    return Claim(noted == mark, noted)


def note(keys: Keyspace, key: str, noted: bytes, *, ttl_ms: int) -> Command[object]:
    """Note something under a key, for a while."""
    return Command([b"SET", keys.repeat(key), noted, b"PX", str(ttl_ms)], bool)


def forget(keys: Keyspace, key: str) -> Command[object]:
    """Free a key."""
    return Command([b"DEL", keys.repeat(key)], int)
