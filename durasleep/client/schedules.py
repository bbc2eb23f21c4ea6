"""``app.schedules``: executions that are started again and again. A script writes its sync twin from this file."""

# It uses private members of the client, which are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol, Unpack

from durasleep.client.schedule_options import KeptOptions, ScheduleOptions, span
from durasleep.codec import Codec
from durasleep.errors import StoreUnavailable, UsageError
from durasleep.model import check_name
from durasleep.protocol import due_schedules, schedules, server
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.schedules import Change, Schedule
from durasleep.query import schedules as reading
from durasleep.query.schedules import ScheduleDescription, SchedulePage
from durasleep.runtime.definition import Registry, called_by, name_of
from durasleep.settings import Settings
from durasleep.transport.store import Store

_TRIES_MAX = 20  # a change that others are always faster with


class Home(Protocol):
    """The parts of a client that are used here."""

    registry: Registry
    codec: Codec
    settings: Settings
    _group: str

    async def _opened(self) -> Store: ...

    async def _note(self, keys: Keyspace, verb: str, id: str = "", *, word: str = "") -> None: ...


class Schedules:
    """Executions that are started again and again, each schedule under a name."""

    def __init__(self, client: Home) -> None:
        self._client = client

    async def put(
        self, name: str, fn: Callable[..., Any] | str, /, **options: Unpack[ScheduleOptions]
    ) -> ScheduleDescription:
        """Start ``fn`` at all times that the ``options`` name; a schedule of the same name is replaced::

            await app.schedules.put("nightly", report, cron="0 3 * * *", zone="Europe/Berlin")
            await app.schedules.put("poll", poll, every="15m", args=["shop"], overlap="queue")

        The options are those of ``ScheduleOptions``. Each execution has the id ``<name>@<time>``, the time with the
        offset of the zone. If lines, distance, zone, start, end and jitter are the same as before, the next time stays,
        even if it has passed and no worker has seen it yet; what runs and what waits stays in any case. So an
        application may put all its schedules each time it starts. Raises UsageError for an option that cannot be used,
        and for arguments that do not fit ``fn``.
        """
        kept = KeptOptions(**options)
        await put(self._client, check_name(name, "schedule"), fn, kept)
        await self._note("put", name)
        return await self.get(name)

    async def get(self, name: str) -> ScheduleDescription:
        """A schedule with its next five times; raises NotFound if there is none."""
        return reading.describe(await self._read(name), reading.NEXT_MAX)

    async def ls(self, limit: int = 1_000) -> SchedulePage:
        """All schedules by name, at most ``limit``, each with its next time.

        ``limit`` is 1 to 10,000, else UsageError. ``SchedulePage.is_all`` is false if there are more.
        """
        store = await self._client._opened()
        before = await store.locate()
        absent = {number for number, location in enumerate(before) if not location.rests}
        found = await store.run(reading.list_schedules([*store.keyspaces.without(absent)], limit))
        if absent or await store.locate() != before:
            found.note_missed()
        return found

    async def pause(self, name: str, note: str | None = None) -> ScheduleDescription:
        """Start nothing until ``resume``; what runs goes on. A ``note`` replaces that of the schedule.

        Raises NotFound if there is no such schedule.
        """
        KeptOptions(note=note or "").check()
        return await self._change("pause", name, lambda found, now_ms: due_schedules.pause(found, now_ms, note))

    async def resume(self, name: str, note: str | None = None) -> ScheduleDescription:
        """Go on with the next time. Times that have passed meanwhile are not made up for: see ``backfill``.

        A ``note`` replaces that of the schedule. Raises NotFound if there is no such schedule.
        """
        KeptOptions(note=note or "").check()
        return await self._change("resume", name, lambda found, now_ms: due_schedules.resume(found, now_ms, note))

    async def trigger(self, name: str) -> str:
        """Start one execution now, even if the schedule is paused or another one runs; answers its id.

        The schedule does not change. Raises NotFound if there is no such schedule.
        """
        found = await self._read(name)
        store = await self._client._opened()
        id = found.id_of(await store.run(server.now_ms(store.keys(name))))
        await store.call(schedules.start_scheduled(store.keys(id), found, id))
        await self._note("trigger", name, word=id)
        return id

    async def backfill(self, name: str, start: datetime, end: datetime) -> list[str]:
        """Start the executions of all times from ``start`` to ``end``, both included; answers their ids.

        Those that exist already do not start again. If executions of the schedule may overlap, all start at once, at
        most 1,000; otherwise one after the other, at most 100. A paused schedule starts them when it is resumed.
        Raises NotFound if there is no such schedule, and UsageError if there are too many times, if the end has not
        passed, or if an instant has no time zone.
        """
        first_ms, until_ms = span(start, end)
        ids: list[str] = []

        def change(found: Schedule, now_ms: int) -> Change:
            changed, ids[:] = due_schedules.backfill(found, first_ms, until_ms, now_ms)
            return changed

        await self._change("backfill", name, change)
        return ids

    async def delete(self, name: str) -> bool:
        """Remove the schedule of this ``name``; false if there is none. Executions that it started go on."""
        store = await self._client._opened()
        word = await store.call(schedules.remove_schedule(store.keys(check_name(name, "schedule")), name))
        if word == "removed":
            await self._note("delete", name)
        return word == "removed"

    async def _read(self, name: str) -> Schedule:
        store = await self._client._opened()
        return await store.run(reading.read(store.keys(check_name(name, "schedule")), name))

    async def _note(self, verb: str, name: str, *, word: str = "") -> None:
        store = await self._client._opened()
        await self._client._note(store.keys(name), f"{verb}-schedule", name, word=word)

    async def _change(self, verb: str, name: str, change: Callable[[Schedule, int], Change]) -> ScheduleDescription:
        """Change it as it is found; again if somebody else has changed it meanwhile."""
        for _ in range(_TRIES_MAX):
            found = await self._read(name)
            store = await self._client._opened()
            keys = store.keys(name)
            now_ms = await store.run(server.now_ms(keys))
            answer = await store.call(schedules.advance_schedule(keys, found, change(found, now_ms)))
            if answer.word == "advanced":
                await self._note(verb, name)
                return await self.get(name)
        raise StoreUnavailable(f"schedule {name} was changed by others {_TRIES_MAX} times meanwhile")


async def put(client: Home, name: str, fn: Callable[..., Any] | str, options: KeptOptions) -> int:
    """Store a schedule; returns when it is due next, in ms."""
    make = maker(client, name, fn, options)
    store = await client._opened()
    now_ms = await store.run(server.now_ms(store.keys(name)))
    return await store.call(schedules.put_schedule(store.keys(name), make(now_ms), paused=options.paused))


def maker(client: Home, name: str, fn: Callable[..., Any] | str, options: KeptOptions) -> Callable[[int], Schedule]:
    """A function that makes the schedule at a time in ms; UsageError for arguments that do not fit."""
    client.registry.check_registered(fn)
    definition = client.registry.called(fn)
    function = name_of(fn) if definition is None else definition.name
    args, kwargs = tuple(options.args), dict(options.kwargs or {})
    payload = client.codec.encode_args(args, kwargs, function, called_by(definition or fn))
    if definition is not None:
        definition.check(args, kwargs)
        if definition.declared.needs_key:
            raise UsageError(f"schedule {name!r}: {function} has a limit that counts by key, and a schedule has none")
    group, retention = client._group, client.settings.retention
    return lambda now_ms: options.made(name, function, payload, group=group, retention=retention, now_ms=now_ms)
