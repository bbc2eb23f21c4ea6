"""Moves a namespace into another one: to another server, or to another number of partitions.

Nobody uses either of the two meanwhile: the old one refuses everybody from the beginning, the new one until the end. So
a move that was interrupted goes on where it was, and one that has ended moves only what has come since.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

from durasleep.client.carrier import Carrier, Report
from durasleep.errors import SchemaMismatch, StoreRefused, StoreUnavailable, UsageError
from durasleep.model import check_name
from durasleep.protocol import moving, sorted_sets, streams
from durasleep.protocol.command import to_text, unwrap
from durasleep.protocol.keys import SCHEMA_VERSION
from durasleep.protocol.moving import Meta
from durasleep.protocol.versions import LASTING, MOVED
from durasleep.query import moving as reading
from durasleep.query.moving import Name, Survey
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import AnyClient, Connector
from durasleep.transport.store import Store, check_partitions, confirming

GONE_S, GONE_BEATS = 3.0, 2  # a worker whose heartbeat has not changed for so long, and for so many beats, is gone
PASSES_MAX = 4  # the second one moves what clients wrote during the first, and so on; they may write for a minute
PATIENCE_S = 30.0  # with a server that does not answer; then the move ends, and can be repeated
_NAMED_MAX = 5  # in one sentence


@asynccontextmanager
async def between(
    source: str | AnyClient,
    namespace: str,
    target: str | AnyClient,
    new_namespace: str,
    *,
    partitions: int,
    leave_own_keys: bool = False,
    leave_others: bool = False,
    min_replicas: int | None = None,
    fsync: bool | None = None,
    on_progress: Callable[[Report], None] | None = None,
) -> AsyncGenerator[Move]:
    """A move from one Redis and namespace to another; the two may be on one server. What the new one gets counts when
    ``min_replicas`` and, with ``fsync``, the disk have it.
    """
    stores: list[Store] = []
    for address, name, settings in (
        (source, namespace, DEFAULTS),
        (target, new_namespace, confirming(DEFAULTS, min_replicas, fsync)),
    ):
        connector = Connector.of(address)
        check_name(name, "namespace")
        stores.append(Store(connector, namespace=name, settings=settings, name="move", patience_s=PATIENCE_S))
    try:
        yield Move(
            *stores,
            partitions=partitions,
            leave_own_keys=leave_own_keys,
            leave_others=leave_others,
            on_progress=on_progress,
        )
    finally:
        for store in stores:
            await store.aclose()


class Move:
    """One move. ``survey`` only reads, and raises UsageError for what cannot be moved; ``run`` moves."""

    def __init__(
        self,
        source: Store,
        target: Store,
        *,
        partitions: int,
        leave_own_keys: bool = False,
        leave_others: bool = False,
        on_progress: Callable[[Report], None] | None = None,
    ) -> None:
        """``leave_own_keys``: keys of ``ctx.key`` stay behind, because nobody can tell whose they are.

        ``leave_others``: promises of other languages stay behind.
        """
        self._source = source
        self._target = target
        self._partitions = check_partitions(partitions)
        self._leave_own_keys = leave_own_keys
        self._leave_others = leave_others
        self._on_progress = on_progress
        self._carrier = Carrier(source, target)
        self._features = ""
        """What the new namespace will need."""
        self._name = ""
        """That of this move; both namespaces know it, so that it can go on."""

    def __str__(self) -> str:
        count = f"{self._partitions} partition{'s' * (self._partitions > 1)}"
        return f"{where_is(self._source)} to {where_is(self._target)}, with {count}"

    # -- what is to be moved

    async def survey(self) -> Survey:
        """What there is to move. Nothing is written."""
        source, target = self._source, self._target
        for store in (source, target):
            await store.check_servers()
        meta = await source.call(moving.read_meta(source.namespace))
        self._check_source(meta)
        self._check_target(meta, await target.call(moving.read_meta(target.namespace)))
        source.partitions.set_count(meta.partitions)
        target.partitions.set_count(self._partitions)
        self._name = meta.move
        self._features = " ".join(sorted(LASTING & set(meta.features.split())))
        found = await source.run(reading.survey(source.keyspaces, target.keyspaces))
        if found.refused:
            raise UsageError(
                f"{_named(found.refused)}: in a namespace with several partitions each '{{' of an id has its own '}}'. "
                "Nothing was moved: let these end, and discard them"
            )
        if found.own and not self._leave_own_keys:
            raise UsageError(
                f"{_named(found.own)}: nobody can tell to which executions keys of ctx.key belong. Nothing was moved: "
                "copy these keys yourself, and move with --leave-own-keys"
            )
        if found.others and not self._leave_others:
            raise UsageError(
                f"{_named(found.others)}: a move does not take promises of other languages along. Nothing was moved: "
                "let them end, or move with --leave-others"
            )
        return found

    def _check_source(self, meta: Meta) -> None:
        where = where_is(self._source)
        if not meta.exists:
            raise UsageError(f"there is no {where}")
        if meta.schema != SCHEMA_VERSION:
            raise SchemaMismatch(f"{where} has schema {meta.schema}: this version moves schema {SCHEMA_VERSION}")
        if meta.arriving:
            raise UsageError(f"another move fills {where}: end that one first")
        if unknown := set(meta.features.split()) - LASTING - {MOVED}:
            raise SchemaMismatch(f"{where} needs {', '.join(sorted(unknown))}, which this version does not know")

    def _check_target(self, meta: Meta, there: Meta) -> None:
        where = where_is(self._target)
        if meta.move and meta.move in (there.arriving, there.arrived):
            if there.partitions != self._partitions:
                raise UsageError(f"{where} has {there.partitions} partitions: go on with that number")
        elif meta.moved and meta.moved != where:
            raise UsageError(f"{where_is(self._source)} was moved to {meta.moved}: go on with that one")
        elif there.exists:
            raise UsageError(f"{where} is in use, and a move makes a new one: give it a name with --to-namespace")

    # -- moving

    async def run(self) -> Report:
        """Move everything. It may be repeated, wherever it was interrupted."""
        found = await self.survey()
        await self._wait_until_gone()
        await self._mark()
        source, report = self._source, self._carrier.report
        await source.run(reading.close_families(source.keyspaces))
        await self._move_queued(found)
        for _ in range(PASSES_MAX):
            before = report.done
            await self._move_all(lambda name: "~" not in name)
            await self._move_all(lambda name: "~" in name)  # behind their roots: they are left if these are
            report.is_all = report.done == before
            if report.is_all:
                break
        await self._move_lists()
        await source.run(reading.clear(source.keyspaces, found, is_empty=not report.left))
        await self._target.call(moving.end(self._target.namespace, self._name))
        return report

    async def _wait_until_gone(self) -> None:
        """StoreUnavailable if a worker sends heartbeats."""
        source = self._source
        before = await source.run(reading.beats(source.keyspaces))
        if not before:
            return
        beat_s = await source.run(reading.between_beats(source.keyspaces, before))
        await asyncio.sleep(max(GONE_S, GONE_BEATS * beat_s))
        after = await source.run(reading.beats(source.keyspaces))
        if alive := {worker.partition("/")[0] for (_, worker), _ in after.items() - before.items()}:
            raise StoreUnavailable(f"workers still serve {where_is(source)}: stop {_named(alive)} first")

    async def _mark(self) -> None:
        """From here on nobody can open the old namespace or the new one."""
        source, target = self._source, self._target
        name = self._name or secrets.token_hex(8)
        marks = moving.mark_moved(source.namespace, where_is(target), name, self._features)
        for answer in await source.ask(marks):
            unwrap(answer)
        self._name = (await source.call(moving.read_meta(source.namespace))).move
        begin = moving.begin(target.namespace, self._name, self._partitions, self._features)
        if await target.call(begin) != self._partitions:
            raise UsageError(f"{where_is(target)} is in use: somebody has just made it")

    async def _move_queued(self, found: Survey) -> None:
        """First what waits for a worker, oldest first, so that it keeps its order."""
        for keys, queue in found.queues:
            after = b""
            while True:
                rows = await self._source.call(streams.list_entries(queue, after=after, count=reading.PAGE))
                names = [f"promise:{to_text(fields[1])}" for _, fields in rows if fields[:1] == [b"i"]]
                await self._carry([(keys, name) for name in names if "~" not in name])
                if len(rows) < reading.PAGE:
                    break
                after = rows[-1][0]

    async def _move_all(self, is_wanted: Callable[[str], bool]) -> None:
        keyspaces = self._source.keyspaces
        for at, *_ in keyspaces.by_node():
            cursor = b""
            while cursor != b"0":
                cursor, keys = await self._source.call(reading.scan(keyspaces, at, cursor))
                found = dict.fromkeys(reading.names(keyspaces, keys))
                await self._carry([one for one in found if is_wanted(one[1])])

    async def _carry(self, names: list[Name]) -> None:
        await self._carrier.carry(names)
        if self._on_progress is not None:
            self._on_progress(self._carrier.report)

    async def _move_lists(self) -> None:
        """Quarantined names, paused groups, the audit, and the lists of the latest endings."""
        source, target = self._source, self._target
        for keys, name, at_ms in await source.run(reading.quarantined(source.keyspaces)):
            await target.call(sorted_sets.add_member(reading.home_of(name, target.keyspaces).halted, name, at_ms))
            await source.call(sorted_sets.remove_member(keys.halted, name))
        for pause in await source.run(reading.pauses(source.keyspaces, target.keyspaces)):
            await target.call(pause)
        for answer in await target.ask(await source.run(reading.audit(source.keyspaces, target.keyspaces))):
            if isinstance(answer, StoreRefused):  # others say that it is there
                raise answer
        for which in ("recent", "failed"):
            endings = await source.run(reading.endings(source.keyspaces, target.keyspaces, which))
            for answer in await target.ask([reading.add_ending(one, which) for one in endings]):
                if isinstance(answer, StoreRefused):  # others say that it is there, or are about a hint for people
                    raise answer


def where_is(store: Store) -> str:
    """A namespace and its server, for people."""
    return f"namespace {store.namespace!r} of {store.connector.address}"


def _named(names: Iterable[str]) -> str:
    """Some names for a sentence."""
    known = sorted(names)
    more = len(known) - _NAMED_MAX
    return f"{', '.join(known[:_NAMED_MAX])}{f' and {more} more' if more > 0 else ''}"
