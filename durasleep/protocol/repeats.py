"""What is noted of requests that their senders may repeat under a key, for a while."""

from __future__ import annotations

from dataclasses import dataclass

from durasleep.protocol.command import Command, Plan, unwrap
from durasleep.protocol.keys import Keyspace

_NOTE = b"""local found = redis.call('GET', KEYS[1])
if not found or found == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 0"""
_FREE = b"""if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0"""


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


def note(keys: Keyspace, key: str, mark: bytes, noted: bytes, *, ttl_ms: int) -> Command[object]:
    """Note something under a key, for a while, instead of our ``mark``, unless somebody else uses the key by now."""
    return Command([b"EVAL", _NOTE, b"1", keys.repeat(key), mark, noted, str(ttl_ms)], int)


def free(keys: Keyspace, key: str, mark: bytes) -> Command[object]:
    """Free a key, if our ``mark`` is still there."""
    return Command([b"EVAL", _FREE, b"1", keys.repeat(key), mark], int)
