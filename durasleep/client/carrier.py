"""Carries promises and schedules from one namespace to another, some at a time.

Each is taken out of the old namespace, read, written to the new one, and deleted when that is confirmed. It may be
interrupted anywhere, and carried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from durasleep.errors import CorruptData, DurasleepError, InvalidId, NewerVersion, NotAllowed
from durasleep.model import root_of
from durasleep.protocol import adoption, moving, server
from durasleep.protocol.adoption import Arriving, Leaving
from durasleep.protocol.command import BatchItem, Call, unwrap
from durasleep.protocol.moving import Adopted, Fields, Page, Word
from durasleep.query.moving import Name, id_of
from durasleep.transport.store import Store

T = TypeVar("T")

TOGETHER_MAX = 100  # promises under way at a time: of each, a page of a megabyte at most is in memory at first
PART_BYTES = 1 << 20  # of a promise that is written in several calls
PART_VALUES = 1_000

_LEFT_ALONE = (CorruptData, NewerVersion, InvalidId, NotAllowed)
"""Errors of one promise; all others are carried all the same."""


@dataclass(slots=True)
class Report:
    """What a move has done."""

    moved: int = 0
    """Executions and promises."""
    schedules: int = 0
    attached: int = 0
    """Executions that had not begun, and whose id and function the new namespace has: they are the same call."""
    left: dict[str, str] = field(default_factory=dict[str, str])
    """What is still in the old namespace, by its name, and why."""
    is_all: bool = False
    """Whether nothing has come to the old namespace while the rest was moved."""

    @property
    def done(self) -> int:
        """How many have left the old namespace."""
        return self.moved + self.schedules + self.attached


class Carrier:
    """Between two stores, which know the partitions of their namespaces."""

    def __init__(self, source: Store, target: Store) -> None:
        self._source = source
        self._target = target
        self.report = Report()

    async def carry(self, names: Sequence[Name]) -> None:
        """Carry these; what cannot be carried is noted in the report, and not tried again."""
        wanted = [one for one in names if one[1] not in self.report.left]
        for part in _in_parts(wanted, TOGETHER_MAX):
            taken = await self._take(part)
            await self._carry_schedules([one for one in taken if one[0][1].startswith("schedule:")])
            await self._carry_promises([one for one in taken if one[0][1].startswith("promise:")])

    async def _take(self, names: Sequence[Name]) -> list[tuple[Name, Page]]:
        """Take these out; the first page of each that exists."""
        taken: list[tuple[Name, Page]] = []
        answers = await self._source.ask([moving.take(keys, name) for keys, name in names])
        for one, answer in zip(names, answers, strict=True):
            page = self._checked(one, answer)
            if page is not None:
                taken.append((one, page))
        return taken

    def _checked(self, one: Name, answer: T | DurasleepError) -> T | None:
        """An answer about one of them; None if it is left for this error."""
        if isinstance(answer, _LEFT_ALONE):
            self.report.left[one[1]] = str(answer)
            return None
        return unwrap(answer)

    async def _drop(self, gone: Sequence[tuple[Name, bytes]]) -> None:
        for answer in await self._source.ask([moving.drop(keys, name, origin) for (keys, name), origin in gone]):
            unwrap(answer)

    # -- schedules

    async def _carry_schedules(self, taken: Sequence[tuple[Name, Page]]) -> None:
        calls: list[Call] = []
        for (_, name), page in taken:
            calls.append(moving.adopt_schedule(self._target.keys(id_of(name)), id_of(name), page.fields))
        gone: list[tuple[Name, bytes]] = []
        for (one, _), answer in zip(taken, await self._target.ask(calls), strict=True):
            if self._checked(one, answer) is not None:
                self.report.schedules += 1
                gone.append((one, moving.origin_of(None, None)))
        await self._drop(gone)

    # -- promises

    async def _carry_promises(self, taken: Sequence[tuple[Name, Page]]) -> None:
        leaving = [(one, read) for one, page in taken if (read := await self._read(one, page)) is not None]
        missing = await self._missing([read for _, read in leaving])
        gone: list[tuple[Name, bytes]] = []
        small: list[tuple[Name, Leaving, BatchItem[Adopted]]] = []
        for one, read in leaving:
            arriving = adoption.arrive(read, self._target.keyspaces, missing)
            if _is_small(arriving):
                small.append((one, read, self._adopt(read, arriving, arriving.fields)))
            elif self._is_there(one, read, await self._write_in_parts(read, arriving)):
                gone.append((one, read.origin))
        answers = await self._target.ask([call for _, _, call in small])
        gone += [
            (one, read.origin)
            for (one, read, _), answer in zip(small, answers, strict=True)
            if self._is_there(one, read, answer)
        ]
        await self._drop(gone)

    async def _read(self, one: Name, page: Page) -> Leaving | None:
        """All of a promise; None if it is left where it is."""
        keys, name = one
        id, fields, cursor = id_of(name), [*page.fields], page.cursor
        if f"promise:{root_of(id)}" in self.report.left:
            self.report.left[name] = f"{root_of(id)} is left, too"
            return None
        try:
            while cursor != b"0":
                if (more := await self._source.call(moving.take(keys, name, cursor))) is None:
                    return None  # it has expired
                fields += more.fields
                cursor = more.cursor
            read = Leaving(id, fields, page)
            if read.has_set:
                read.waiters += await self._read_waiters(one)
            if read.has_view:
                read.view = await self._source.call(moving.read_view(keys, name))
            if read.has_mail:
                read.mail = await self._read_mail(one)
            read.check(self._target.keyspaces)
        except _LEFT_ALONE as error:
            self.report.left[name] = str(error)
            return None
        return read

    async def _read_waiters(self, one: Name) -> list[bytes]:
        cursor, found = b"0", list[bytes]()
        while True:
            cursor, members = await self._source.call(moving.read_waiters(*one, cursor))
            found += members
            if cursor == b"0":
                return found

    async def _read_mail(self, one: Name) -> Fields:
        cursor, found = b"0", dict[bytes, bytes]()
        while True:
            cursor, fields = await self._source.call(moving.read_mail(*one, cursor))
            found.update(fields)
            if cursor == b"0":
                return [*found.items()]

    async def _missing(self, leaving: Sequence[Leaving]) -> set[str]:
        """What is awaited, will be in another partition, and does not exist."""
        source, target = self._source, self._target
        wanted = {id for one in leaving for id in adoption.parted(one, target.keyspaces)}
        looks: tuple[tuple[Store, Callable[[str], Call]], ...] = (
            (source, lambda one: server.exists(source.keys(one).promise(one))),
            (source, lambda one: moving.exists_leaving(source.keys(one), one)),
            (target, lambda one: server.exists(target.keys(one).promise(one))),
        )
        for store, look in looks:  # in the order of its way, so that it is not missed while it is carried
            ids = sorted(wanted)
            answers = await store.ask([look(id) for id in ids])
            wanted -= {id for id, answer in zip(ids, answers, strict=True) if unwrap(answer)}
        return wanted

    def _adopt(
        self, leaving: Leaving, arriving: Arriving, fields: Fields, timers: moving.Timers | None = None
    ) -> BatchItem[Adopted]:
        return moving.adopt(
            self._target.keys(leaving.id),
            leaving.id,
            fields,
            origin=leaving.origin,
            size=len(arriving.fields),
            ttl_ms=leaving.ttl_ms,
            halted_ms=leaving.halted_ms,
            is_closing=leaving.is_closing,
            timers=arriving.timers if timers is None else timers,
        )

    async def _write_in_parts(self, leaving: Leaving, arriving: Arriving) -> Adopted | DurasleepError:
        """Write one that is too large for one call: its parts, then all of it becomes visible, then its timers."""
        target, id = self._target, leaving.id
        keys = target.keys(id)
        adopted: Adopted | DurasleepError = Adopted(Word.KNOWN, "")
        timers = [*_in_parts(arriving.timers, PART_VALUES)]
        if await target.call(moving.read_origin(keys, id)) != leaving.origin:
            *parts, last = _parts_of(arriving.fields)
            for part in _in_parts(arriving.waiters, PART_VALUES):
                await target.call(moving.add_waiters(keys, id, part))
            if arriving.view:
                await target.call(moving.add_view(keys, id, arriving.view))
            for part in _parts_of(arriving.mail):
                if part:
                    await target.call(moving.add_mail(keys, id, part))
            for at, part in enumerate(parts):
                await target.call(moving.fill(keys, id, part, is_first=at == 0))
            [adopted] = await target.ask([self._adopt(leaving, arriving, last, timers=[])])
        if isinstance(adopted, Adopted) and adopted.word is not Word.OTHER:
            for part in timers:
                await target.call(moving.add_timers(keys, id, part))
        return adopted

    def _is_there(self, one: Name, leaving: Leaving, answer: Adopted | DurasleepError) -> bool:
        """Whether the new namespace has it, so that the old one needs it no more."""
        adopted = self._checked(one, answer)
        if adopted is None:
            return False
        if adopted.word is not Word.OTHER:
            self.report.moved += 1
        elif adopted.function == leaving.function and not leaving.has_begun:
            self.report.attached += 1
        else:
            self.report.left[one[1]] = "the new namespace has another execution with this id"
            return False
        return True


def _is_small(arriving: Arriving) -> bool:
    """Whether one call can write it."""
    few = len(arriving.fields) + len(arriving.timers) <= PART_VALUES
    few = few and not (arriving.waiters or arriving.view or arriving.mail)
    return few and sum([len(name) + len(value) for name, value in arriving.fields]) <= PART_BYTES


def _parts_of(fields: Fields) -> list[Fields]:
    """The fields in parts that one call can write; at least two, so that the last one follows a beginning."""
    parts: list[Fields] = [[], []]
    size = 0
    for one in fields:
        if parts[-1] and (size + len(one[0]) + len(one[1]) > PART_BYTES or len(parts[-1]) >= PART_VALUES):
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += len(one[0]) + len(one[1])
    return parts


def _in_parts(things: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), most):
        yield things[start : start + most]
