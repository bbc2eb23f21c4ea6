"""Which tasks and steps of a worker wait for results of others, each of them in a place others may need meanwhile."""

from __future__ import annotations

import contextvars
from typing import NamedTuple

from durasleep.errors import Stuck
from durasleep.model import PromiseId

CALLER_PREFIX = "durasleep:"


class Wait(NamedTuple):
    """A task, or a step, and what it waits for."""

    caller: PromiseId
    awaited: PromiseId


class Waits:
    """Those of one worker, in the order in which they began."""

    def __init__(self) -> None:
        self._waiting: dict[object, Wait] = {}

    def now(self) -> list[Wait]:
        """All there are; may be called from any thread."""
        return list(self._waiting.values())

    def call(self, name: str) -> None:
        """What begins next in this context is ``name``, a prefix and the id of a task or step."""
        _CALLER.set((self, name))

    def begin(self, key: object, wait: Wait) -> None:
        self._waiting[key] = wait

    def end(self, key: object) -> None:
        self._waiting.pop(key, None)


_CALLER: contextvars.ContextVar[tuple[Waits, str] | None] = contextvars.ContextVar("durasleep_caller", default=None)


def is_inside() -> bool:
    """Whether this is called in a task or step of a worker."""
    return _CALLER.get() is not None


class Waiting:
    """Around the wait for a result, which may be inside a task or step of a worker.

    Stuck if that is what it waits for itself, or what was called by it.
    """

    __slots__ = ("_awaited", "_waits")

    def __init__(self, awaited: PromiseId) -> None:
        self._awaited = awaited
        self._waits: Waits | None = None

    def __enter__(self) -> Waiting:
        inside = _CALLER.get()
        if inside is not None:
            waits, name = inside
            caller = PromiseId(name.removeprefix(CALLER_PREFIX))
            if is_in_line(caller, self._awaited):
                raise Stuck(f"{caller} would wait for {self._awaited}, which goes on only after it: it does not wait")
            waits.begin(self, Wait(caller, self._awaited))
            self._waits = waits
        return self

    def __exit__(self, *_: object) -> None:
        if self._waits is not None:
            self._waits.end(self)


def is_in_line(caller: str, awaited: str) -> bool:
    """Whether ``awaited`` is the caller itself, or one of those it was called by."""
    return caller == awaited or caller.startswith(f"{awaited}~")
