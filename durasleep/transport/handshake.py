"""Whether a namespace is for this version: its schema and features, asked for when we connect and with every beat.

A schema is how all of it is kept; a feature is what some namespaces need and others do not. What only adds a code, a
field or a kind of timer needs neither: older workers leave it to newer ones.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, cast

from durasleep.errors import SchemaMismatch, StoreError, StoreUnavailable
from durasleep.protocol import server, sorted_sets, versions
from durasleep.protocol.command import Reply, to_text
from durasleep.protocol.keys import SCHEMA_VERSION, Keyspace
from durasleep.protocol.script import Value
from durasleep.transport.reply_errors import refusal

FEATURES: frozenset[str] = frozenset()
"""What this version knows of that a namespace may need. One that needs more is not served: ``features`` of its meta
hash has their names, with a space between them; and each worker says which it knows, so that none is used too early."""

KNOWS = " ".join((str(SCHEMA_VERSION), *sorted(FEATURES)))
"""What a worker says of itself: its schema, then its features."""

BEATS_MS = 10_000  # who has beaten since is alive
NAMED_MAX = 5  # workers in one sentence

Asking = Generator[Sequence[Sequence[Value]], list[Reply], None]
"""Commands that go together, again and again, each time sent their replies."""


def greet(keys: Keyspace, *, moves: bool = False) -> Asking:
    """Make the namespace ours if it is new; a worker ``moves`` it from the schema before, if no worker of that is left.

    SchemaMismatch if it is not for us, StoreUnavailable as long as it is of the schema before, StoreError if we may not
    use it at all.
    """
    look = versions.read_meta(keys.namespace).args
    [found] = yield [look]
    if isinstance(found, list) and None in found[:2]:  # else nothing is written: it may be full, or read only
        *made, found = yield [*(one.args for one in versions.make_meta(keys.namespace)), look]
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
        yield from _move(keys)
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


def _move(keys: Keyspace) -> Asking:
    """From schema 1, whose promises, entries and timers are read as they are: only no worker may write it any more."""
    old = yield from _old_workers(keys)
    if old:
        more = f" and {len(old) - NAMED_MAX} more" if len(old) > NAMED_MAX else ""
        raise StoreUnavailable(
            f"namespace {keys.namespace!r} can be used by this version once the workers of the version before have "
            f"left: {', '.join(old[:NAMED_MAX])}{more}"
        )
    [moved] = yield [versions.move(keys.namespace).args]
    if isinstance(moved, Exception):
        raise refusal(moved) or StoreError(f"namespace {keys.namespace!r} cannot be moved: {moved}")


def _old_workers(keys: Keyspace) -> Generator[Sequence[Sequence[Value]], list[Reply], list[str]]:
    """Those that beat, and do not say that they know our schema."""
    ask_beats, ask_time = sorted_sets.list_members(keys.workers), server.read_time()
    beats, time = yield [ask_beats.args, ask_time.args]
    if not isinstance(beats, list) or not isinstance(time, list):
        return []
    now_ms = ask_time.parse(time) // 1000
    beating = [name for name, beat_ms in ask_beats.parse(beats) if now_ms - beat_ms < BEATS_MS]
    if not beating:
        return []
    known = yield [versions.read_knows(keys, name).args for name in beating]
    return [name for name, knows in zip(beating, known, strict=True) if not isinstance(knows, bytes)]
