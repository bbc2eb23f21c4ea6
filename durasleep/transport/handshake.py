"""Whether a namespace is for this version: its schema and features, asked for when we connect and with every beat.

A schema is how all of it is kept; a feature is what some namespaces need and others do not. What only adds a code, a
field or a kind of timer needs neither: older workers leave it to newer ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, cast

from durasleep.errors import SchemaMismatch, StoreError, StoreUnavailable
from durasleep.protocol.command import Command, to_text
from durasleep.protocol.keys import SCHEMA_VERSION, Keyspace, W, meta_key
from durasleep.transport.reply_errors import Reply, refusal

FEATURES: frozenset[str] = frozenset()
"""What this version knows of that a namespace may need. One that needs more is not served: ``features`` of its meta
hash has their names, with a space between them; and each worker says which it knows, so that none is used too early."""

KNOWS = " ".join((str(SCHEMA_VERSION), *sorted(FEATURES)))
"""What a worker says of itself: its schema, then its features."""

BEATS_MS = 10_000  # who has beaten since is alive
NAMED_MAX = 5  # workers in one sentence

Asking = Generator[list[list[bytes]], list[Reply], None]
"""Commands that go together, again and again, each time sent their replies."""

_FIELDS = (b"schema", b"partitions", b"features")

_MOVE = b"""if redis.call('HGET', KEYS[1], 'schema') == ARGV[1] then redis.call('HSET', KEYS[1], 'schema', ARGV[2]) end
return 0"""


def greet(keys: Keyspace, *, moves: bool = False) -> Asking:
    """Make the namespace ours if it is new; a worker ``moves`` it from the schema before, if no worker of that is left.

    SchemaMismatch if it is not for us, StoreUnavailable as long as it is of the schema before, StoreError if we may not
    use it at all.
    """
    meta = meta_key(keys.namespace).encode()
    look = [b"HMGET", meta, *_FIELDS]
    [found] = yield [look]
    if isinstance(found, list) and None in found[:2]:  # else nothing is written: it may be full, or read only
        *made, found = yield [
            [b"HSETNX", meta, b"schema", b"%d" % SCHEMA_VERSION],
            [b"HSETNX", meta, b"partitions", b"1"],
            look,
        ]
        for reply in made:
            _check_reply(reply)
    _check_reply(found)
    if not isinstance(found, list):
        raise StoreError("what answers there does not behave like Redis")
    values = cast("list[bytes | None]", found)
    if values[0] == b"%d" % (SCHEMA_VERSION - 1):
        if not moves:
            raise StoreUnavailable(
                f"namespace {keys.namespace!r} is of the version before: the first worker of this version moves it, "
                "once the workers of that one have left"
            )
        yield from _move(keys, meta)
        values[0] = b"%d" % SCHEMA_VERSION
    check(keys.namespace, values)


def _check_reply(reply: Reply) -> None:
    if isinstance(reply, Exception):
        raise refusal(reply) or StoreError(f"Redis refuses us: {reply}")


def check(namespace: str, values: list[Any]) -> None:
    """SchemaMismatch if these fields of the meta hash are not for us; without any, somebody has emptied the server."""
    if not any(values):
        return
    schema, partitions = (int(value) if value and value.isdigit() else 0 for value in values[:2])
    if schema != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"namespace {namespace!r} has schema {schema}, this version of durasleep reads schema {SCHEMA_VERSION}"
        )
    if partitions != 1:
        raise SchemaMismatch(f"namespace {namespace!r} has {partitions} partitions, this version serves one")
    if unknown := set(to_text(values[2]).split()) - FEATURES:
        names = ", ".join(sorted(unknown))
        raise SchemaMismatch(f"namespace {namespace!r} needs {names}, which this version of durasleep does not know")


def read_meta(namespace: str) -> Command[list[Any]]:
    """The same fields, as they are now."""
    meta = meta_key(namespace).encode()
    parse: Callable[[list[Any]], list[Any]] = list
    return Command([b"HMGET", meta, *_FIELDS], parse)


def _move(keys: Keyspace, meta: bytes) -> Asking:
    """From schema 1, whose promises, entries and timers are read as they are: only no worker may write it any more."""
    old = yield from _old_workers(keys)
    if old:
        more = f" and {len(old) - NAMED_MAX} more" if len(old) > NAMED_MAX else ""
        raise StoreUnavailable(
            f"namespace {keys.namespace!r} can be used by this version once the workers of the version before have "
            f"left: {', '.join(old[:NAMED_MAX])}{more}"
        )
    [moved] = yield [[b"EVAL", _MOVE, b"1", meta, b"%d" % (SCHEMA_VERSION - 1), b"%d" % SCHEMA_VERSION]]
    if isinstance(moved, Exception):
        raise refusal(moved) or StoreError(f"namespace {keys.namespace!r} cannot be moved: {moved}")


def _old_workers(keys: Keyspace) -> Generator[list[list[bytes]], list[Reply], list[str]]:
    """Those that beat, and do not say that they know our schema."""
    beats, time = yield [[b"ZRANGE", keys.workers.encode(), b"0", b"-1", b"WITHSCORES"], [b"TIME"]]
    if not isinstance(beats, list) or not isinstance(time, list):
        return []
    flat, now_ms = cast("list[bytes]", beats), int(cast("list[bytes]", time)[0]) * 1000
    beating = [name for name, beat in zip(flat[::2], flat[1::2], strict=True) if now_ms - float(beat) < BEATS_MS]
    if not beating:
        return []
    known = yield [[b"HGET", keys.worker(to_text(name)).encode(), W["knows"].encode()] for name in beating]
    return [to_text(name) for name, knows in zip(beating, known, strict=True) if not isinstance(knows, bytes)]
