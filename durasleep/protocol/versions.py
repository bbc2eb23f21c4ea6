"""Which versions can use a namespace, and which version its workers have."""

from __future__ import annotations

from typing import Any

from durasleep.protocol.command import Command, to_text
from durasleep.protocol.keys import SCHEMA_VERSION, Keyspace, W, meta_key

MOVED, FILLING = "moved", "arriving"
"""Features in the meta hash of a namespace that was moved, or that a move fills: no version serves it then."""

_MOVE = b"""if redis.call('HGET', KEYS[1], 'schema') == ARGV[1] then redis.call('HSET', KEYS[1], 'schema', ARGV[2]) end
return 0"""


def read_meta(namespace: str) -> Command[list[bytes | None]]:
    """Its schema, its number of partitions, the features it needs, and where it was moved to."""
    names = (b"schema", b"partitions", b"features", b"moved")
    return Command([b"HMGET", meta_key(namespace).encode(), *names], list[Any])


def make_meta(namespace: str, partitions: int = 1) -> list[Command[object]]:
    """Mark a new namespace as one of this version; what it has already stays."""
    meta = meta_key(namespace).encode()
    return [
        Command([b"HSETNX", meta, b"schema", b"%d" % SCHEMA_VERSION], bool),
        Command([b"HSETNX", meta, b"partitions", b"%d" % partitions], bool),
    ]


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
