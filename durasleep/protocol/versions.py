"""Which versions can use a namespace, and which version its workers have."""

from __future__ import annotations

from typing import Any

from durasleep.protocol import server
from durasleep.protocol.command import Command, Plan, to_text, unwrap
from durasleep.protocol.keys import SCHEMA_VERSION, Keyspace, W, meta_key
from durasleep.protocol.keyspaces import Keyspaces

MOVED, FILLING = "moved", "arriving"
"""Features in the meta hash of a namespace that was moved, or that a move fills: no version serves it then."""

FLOW = "flow"
"""The feature of a namespace that has priorities, labels or limits: older versions would break them."""

CHANNELS = "channels"
"""The feature of a namespace whose executions receive, send or publish: older versions would lose messages."""

RESONATE = "resonate"
"""The feature of a namespace that a gateway serves: older versions would not tell promises of Resonate how executions
have ended.
"""

LASTING = frozenset((FLOW, CHANNELS, RESONATE))
"""What a namespace goes on to need when it is moved."""

_MOVE = b"""if redis.call('HGET', KEYS[1], 'schema') == ARGV[1] then redis.call('HSET', KEYS[1], 'schema', ARGV[2]) end
return 0"""
_UNCHOSEN = b"unchosen"  # a field of the meta hash: its first use made the namespace, with one partition
_CHOOSE = b"""if redis.call('HDEL', KEYS[1], 'unchosen') == 1 then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[1])
end
return 0"""
_ADD = b"""local features = redis.call('HGET', KEYS[1], 'features') or ''
if not string.find(' ' .. features .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'features', features == '' and ARGV[1] or features .. ' ' .. ARGV[1])
end
return 0"""
_SCAN_COUNT = 1_000  # keys that one step looks at


def read_meta(namespace: str) -> Command[list[bytes | None]]:
    """Its schema, its number of partitions, the features it needs, and where it was moved to."""
    names = (b"schema", b"partitions", b"features", b"moved")
    return Command([b"HMGET", meta_key(namespace).encode(), *names], list[Any])


def make_meta(namespace: str, partitions: int | None) -> list[Command[object]]:
    """Mark a new namespace as one of this version; what it has already stays. Without a number of ``partitions`` it has
    one, which ``init`` may change while nothing is in it.
    """
    fields = {b"schema": SCHEMA_VERSION, b"partitions": partitions or 1} | ({} if partitions else {_UNCHOSEN: 1})
    return [
        Command([b"HSETNX", meta_key(namespace).encode(), name, b"%d" % value], bool) for name, value in fields.items()
    ]


def is_unused(keyspaces: Keyspaces) -> Plan[bool]:
    """Whether no partition has any key. This looks at all keys of the server."""
    for at, *_ in keyspaces.by_node():
        cursor = b"0"
        while True:
            [page] = yield [server.scan(keyspaces.pattern("*"), cursor, count=_SCAN_COUNT).at(at.slot)]
            cursor, names = unwrap(page)
            if any(keyspaces.parse(name) for name in names):
                return False
            if cursor == b"0":
                break
    return True


def choose_partitions(namespace: str, partitions: int) -> Command[object]:
    """Give a namespace this number of partitions, if it has one that nobody chose. It must be unused."""
    return Command([b"EVAL", _CHOOSE, b"1", meta_key(namespace).encode(), b"%d" % partitions], bool)


def needs(meta: list[bytes | None], feature: str) -> bool:
    """Whether a namespace needs a feature, by the answer of ``read_meta``."""
    return feature in to_text(meta[2]).split()


def add_feature(namespace: str, feature: str) -> Command[object]:
    """From now on the namespace needs this feature."""
    return Command([b"EVAL", _ADD, b"1", meta_key(namespace).encode(), feature.encode()], bool)


def move(namespace: str) -> Command[object]:
    """Move a namespace from the previous schema to ours."""
    meta = meta_key(namespace).encode()
    return Command([b"EVAL", _MOVE, b"1", meta, b"%d" % (SCHEMA_VERSION - 1), b"%d" % SCHEMA_VERSION], bool)


def read_knows(keys: Keyspace, consumer: str) -> Command[str | None]:
    """The schema and features that a worker reports; None if it reports none."""
    return Command(
        [b"HGET", keys.worker(consumer).encode(), W["knows"].encode()],
        lambda raw: None if raw is None else to_text(raw),
    )
