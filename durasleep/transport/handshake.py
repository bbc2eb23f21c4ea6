"""Checks whether this version can use a namespace: its schema and features, at each connect and with every heartbeat.

A schema is the format of all data; a feature is something that only some namespaces need. A new code, field or kind of
timer needs neither: older workers leave it to newer ones.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar, cast

from durasleep.errors import NamespaceMissing, SchemaMismatch, StoreError, StoreUnavailable
from durasleep.protocol import groups, server, sorted_sets, versions
from durasleep.protocol.command import Reply, to_text
from durasleep.protocol.keys import SCHEMA_VERSION, Keyspace
from durasleep.protocol.partitions import PARTITIONS_MAX
from durasleep.protocol.script import Value
from durasleep.transport.reply_errors import refusal

T = TypeVar("T")

_FEATURES = frozenset((versions.FLOW, versions.CHANNELS, versions.RESONATE, groups.PAUSE))
"""The features that this version knows. A namespace that needs another one is not served. ``features`` in its meta hash
has their names, separated by spaces. Each worker reports those that it knows, so that none is used too early."""

KNOWS = " ".join((str(SCHEMA_VERSION), *sorted(_FEATURES)))
"""What a worker reports about itself: its schema, then its features."""

_BEATS_MS = 10_000  # a worker with a heartbeat since then is alive
NAMED_MAX = 5  # workers in one sentence

Asking = Generator[Sequence[Sequence[Value]], list[Reply], T]
"""A plan of commands that are sent together, step by step; each step gets their replies."""


def greet(
    keys: Keyspace, *, moves: bool = False, partitions: int | None = None, is_cluster: bool = False
) -> Asking[int]:
    """Make the namespace ours if it is new, with this many ``partitions``, and return how many it has. A worker
    ``moves`` it from the previous schema, if no worker of that is left.

    Without a number it gets one, but in a cluster it is not made, and that is NamespaceMissing. There, one node keeps
    how many partitions a namespace has. If that node was lost, the others still have the executions of the rest.

    SchemaMismatch if this version cannot use it, StoreUnavailable while it has the previous schema, StoreError if we
    have no right to use it.
    """
    look = versions.read_meta(keys.namespace).args
    [found] = yield [look]
    if is_cluster and partitions is None and isinstance(found, list) and not any(cast("list[Reply]", found)):
        advice = (
            "make it with `durasleep init --partitions N`. If it was there, the node that knew its number of partitions"
            " has lost it: then N is the number it had"
        )
        raise NamespaceMissing(f"there is no namespace {keys.namespace!r} in this cluster: {advice}")
    if isinstance(found, list) and None in found[:2]:  # else nothing is written: it may be full, or read only
        *made, found = yield [*(one.args for one in versions.make_meta(keys.namespace, partitions)), look]
        for reply in made:
            _check_reply(reply)
    _check_reply(found)
    if not isinstance(found, list):
        raise StoreError("the server at this address does not behave like Redis")
    values = cast("list[bytes | None]", found)
    if values[0] == b"%d" % (SCHEMA_VERSION - 1):
        if not moves:
            raise StoreUnavailable(
                f"namespace {keys.namespace!r} is of the previous version: the first worker of this version moves it, "
                "when the workers of the previous version have left"
            )
        yield from _move(keys)
        values[0] = b"%d" % SCHEMA_VERSION
    return check(keys.namespace, values) or 1


def _check_reply(reply: Reply) -> None:
    if isinstance(reply, Exception):
        raise refusal(reply) or StoreError(f"Redis refuses us: {reply}")


def check(namespace: str, values: list[Any], known: int = 0) -> int:
    """The number of partitions in these fields of the meta hash; 0 if all are missing, because somebody has emptied the
    server.

    SchemaMismatch if they do not fit us, if it is another number than the one we ``know``, or during and after a move.
    """
    if not any(values):
        return 0
    if where := to_text(values[3]):
        raise SchemaMismatch(f"namespace {namespace!r} was moved: use {where}")
    if versions.FILLING in to_text(values[2]).split():
        raise SchemaMismatch(f"`durasleep move` is filling namespace {namespace!r}: it can be used when that has ended")
    schema, partitions = (int(value) if value and value.isdigit() else 0 for value in values[:2])
    if schema != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"namespace {namespace!r} has schema {schema}, this version of durasleep reads schema {SCHEMA_VERSION}"
        )
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise SchemaMismatch(
            f"namespace {namespace!r} has {partitions} partitions, this version serves 1 to {PARTITIONS_MAX}"
        )
    if known and partitions != known:
        raise SchemaMismatch(f"namespace {namespace!r} has {counted(partitions)} now, and had {known}")
    if unknown := set(to_text(values[2]).split()) - _FEATURES:
        names = ", ".join(sorted(unknown))
        raise SchemaMismatch(f"namespace {namespace!r} needs {names}, which this version of durasleep does not know")
    return partitions


def counted(partitions: int) -> str:
    """So many partitions, in words."""
    return f"{partitions} partition{'s' * (partitions > 1)}"


def _move(keys: Keyspace) -> Asking[None]:
    """From schema 1. Its promises, entries and timers can be read unchanged; only its workers must have ended."""
    old = yield from _old_workers(keys)
    if old:
        more = f" and {len(old) - NAMED_MAX} more" if len(old) > NAMED_MAX else ""
        raise StoreUnavailable(
            f"namespace {keys.namespace!r} can be used by this version when the workers of the previous version have "
            f"left: {', '.join(old[:NAMED_MAX])}{more}"
        )
    [moved] = yield [versions.move(keys.namespace).args]
    if isinstance(moved, Exception):
        raise refusal(moved) or StoreError(f"namespace {keys.namespace!r} cannot be moved: {moved}")


def _old_workers(keys: Keyspace) -> Generator[Sequence[Sequence[Value]], list[Reply], list[str]]:
    """Workers that are alive, and do not report that they know our schema."""
    ask_beats, ask_time = sorted_sets.list_members(keys.workers), server.read_time()
    beats, time = yield [ask_beats.args, ask_time.args]
    if not isinstance(beats, list) or not isinstance(time, list):
        return []
    now_ms = ask_time.parse(time) // 1000
    beating = [name for name, beat_ms in ask_beats.parse(beats) if now_ms - beat_ms < _BEATS_MS]
    if not beating:
        return []
    known = yield [versions.read_knows(keys, name).args for name in beating]
    return [name for name, knows in zip(beating, known, strict=True) if not isinstance(knows, bytes)]
