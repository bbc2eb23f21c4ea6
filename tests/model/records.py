"""The data while a script runs, and the smallest changes of it."""

from __future__ import annotations

from durasleep.model import DUE_MS_MAX, Place
from tests.model.gate import Gate
from tests.model.state import Entry, Promise, Redis, Snapshot, StreamEntry


class Refused(Exception):
    """An item that was refused, with the code the script gives."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and other.code == self.code

    def __hash__(self) -> int:
        return hash(self.code)


class Records:
    """Redis while a script runs."""

    def __init__(self, redis: Redis) -> None:
        self.now = redis.now
        self.last_entry = redis.last_entry
        self.promises = dict(redis.promises)
        self.timers = dict(redis.timers)
        self.stream = {entry.entry: entry for entry in redis.stream}
        self.beats = dict(redis.beats)
        self.presence = dict(redis.presence)
        self.halted = set(redis.halted)
        self.closing = list(redis.closing)
        self.schedules = dict(redis.schedules)
        self.inboxes = dict(redis.inboxes)
        self.wake = redis.wake
        self.effects = dict(redis.effects)
        self.begun = dict(redis.begun)
        self.declared = dict(redis.declared)
        self.is_paused = redis.is_paused
        self.limits = {name: Gate.of(limit) for name, limit in redis.limits}
        self.mail = dict(redis.mail)
        self.taken = list(redis.taken)
        self.been_read = list(redis.been_read)
        self.unread_at_end = list(redis.unread_at_end)
        self.timers_before = redis.timers
        self.made: set[str] = set()
        self.earliest_made: int | None = None

    def redis(self) -> Redis:
        """The state as it is now."""
        return Redis(
            now=self.now,
            last_entry=self.last_entry,
            promises=tuple(sorted(self.promises.items())),
            timers=tuple(sorted(self.timers.items())),
            stream=tuple([self.stream[entry] for entry in sorted(self.stream)]),
            beats=tuple(sorted(self.beats.items())),
            presence=tuple(sorted(self.presence.items())),
            halted=frozenset(self.halted),
            closing=tuple(self.closing),
            schedules=tuple(sorted(self.schedules.items())),
            inboxes=tuple(sorted(self.inboxes.items())),
            wake=self.wake,
            effects=tuple(sorted(self.effects.items())),
            begun=tuple(sorted(self.begun.items())),
            declared=tuple(sorted(self.declared.items())),
            is_paused=self.is_paused,
            limits=tuple([(name, self.limits[name].limit()) for name in sorted(self.limits)]),
            mail=tuple(sorted(self.mail.items())),
            taken=tuple(self.taken),
            been_read=tuple(self.been_read),
            unread_at_end=tuple(self.unread_at_end),
        )

    def put(self, id: str, **changes: object) -> Promise:
        promise = self.promises[id] = self.promises[id]._replace(**changes)  # type: ignore[arg-type]
        return promise

    def put_entry(self, id: str, number: str, entry: Entry) -> None:
        journal = dict(self.promises[id].journal)
        journal[number] = entry
        self.put(id, journal=tuple(sorted(journal.items())))

    def entry(self, id: str, number: str) -> Entry | None:
        promise = self.promises.get(id)
        return dict(promise.journal).get(number) if promise else None

    def remove(self, id: str) -> None:
        self.promises.pop(id, None)

    def holder(self, promise: Promise) -> str | None:
        entry = None if promise.entry is None else self.stream.get(promise.entry)
        return entry.holder if entry else None

    def set_timer(self, member: str, due: int) -> None:
        self.timers[member] = due
        self.made.add(member)

    def unset_timer(self, member: str) -> None:
        self.timers.pop(member, None)
        self.made.discard(member)

    def due_at(self, due: str) -> int:
        if due[:1] not in ("+", "=") or not due[1:].isdigit():
            raise Refused("INVALID")
        return min(int(due[1:]) + (self.now if due[0] == "+" else 0), DUE_MS_MAX)

    def next_epoch(self, promise: Promise) -> int:
        return promise.epoch + 1

    def enqueue(self, id: str, snapshot: Snapshot | None = None) -> None:
        promise = self.promises[id]
        epoch = self.next_epoch(promise)
        self.last_entry += 1
        entry = StreamEntry(self.last_entry, promise.queue, id, epoch, snapshot=snapshot)
        self.stream[self.last_entry] = entry
        self.put(id, place=Place.QUEUED, epoch=epoch, entry=self.last_entry)
