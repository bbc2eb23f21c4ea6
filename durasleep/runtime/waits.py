"""Which tasks and steps of a worker wait for results of others, each of them in a place others may need meanwhile."""

from __future__ import annotations

import contextvars
from typing import Any, NamedTuple

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

    def begin(self, key: object, wait: Wait) -> None:
        self._waiting[key] = wait

    def end(self, key: object) -> None:
        self._waiting.pop(key, None)


Inside = tuple[Waits, str, Any]
"""A call of a task or step: whose waits those in it are, its name, a prefix and the id of the task or step, and what
tells of it, see ``durasleep.runtime.current``."""

# One variable for all of it: each that is set costs a step a microsecond or two.
_inside: contextvars.ContextVar[Inside | None] = contextvars.ContextVar("durasleep_call", default=None)
enter = _inside.set
"""From here on it is this call, in this context."""
inside = _inside.get
"""The call of a task or step this is in; None anywhere else."""


class Waiting:
    """Around the wait for a result, which may be inside a task or step of a worker.

    Stuck if that is what it waits for itself, or what was called by it.
    """

    __slots__ = ("_awaited", "_waits")

    def __init__(self, awaited: PromiseId) -> None:
        self._awaited = awaited
        self._waits: Waits | None = None

    def __enter__(self) -> Waiting:
        call = inside()
        if call is not None:
            waits, name, _ = call
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
