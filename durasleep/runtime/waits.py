"""The tasks and steps of a worker that wait for other results; each holds a slot that others may need."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from durasleep.codec.published import StepProgress
from durasleep.errors import Stuck
from durasleep.model import PromiseId

CALLER_PREFIX = "durasleep:"


class Wait(NamedTuple):
    """A task, or a step, and what it waits for."""

    caller: PromiseId
    awaited: PromiseId


class Waits:
    """The waits of one worker, in the order in which they began."""

    def __init__(self) -> None:
        self._waiting: dict[object, Wait] = {}

    def now(self) -> list[Wait]:
        """All of them; may be called from any thread."""
        return list(self._waiting.values())

    def begin(self, key: object, wait: Wait) -> None:
        self._waiting[key] = wait

    def end(self, key: object) -> None:
        self._waiting.pop(key, None)


class Attempt(Protocol):
    """A running attempt of a task or step, as its function reaches it; from any thread."""

    def ids(self) -> Mapping[str, object]:
        """What log lines say of it."""
        ...

    def keep(self, data: object) -> None:
        """See ``durasleep.checkpoint``."""
        ...

    def publish(self, values: Mapping[str, object], progress: StepProgress | None) -> None:
        """See ``durasleep.publish`` and ``durasleep.progress``; without ``progress``, the last one stays."""
        ...


Inside = tuple[Waits, str, Any, Attempt | None]
"""A running task or step: the waits it belongs to, its name, a prefix and its id, the source of its description, and
its attempt, see ``durasleep.runtime.current``."""

# One variable for everything: setting each one costs a step a microsecond or two.
_inside: contextvars.ContextVar[Inside | None] = contextvars.ContextVar("durasleep_call", default=None)
enter = _inside.set
"""From here on, this call runs in this context."""
inside = _inside.get
"""The task or step in which this code runs; None anywhere else."""


class Waiting:
    """Use it around a wait for a result, which may be inside a task or step of a worker.

    Stuck if it would wait for the task or step itself, or for one of its callers.
    """

    __slots__ = ("_awaited", "_waits")

    def __init__(self, awaited: PromiseId) -> None:
        self._awaited = awaited
        self._waits: Waits | None = None

    def __enter__(self) -> Waiting:
        call = inside()
        if call is not None:
            waits, name, *_ = call
            caller = PromiseId(name.removeprefix(CALLER_PREFIX))
            if is_in_line(caller, self._awaited):
                raise Stuck(
                    f"{caller} would wait for {self._awaited}, and {self._awaited} waits for it: the call is refused"
                )
            waits.begin(self, Wait(caller, self._awaited))
            self._waits = waits
        return self

    def __exit__(self, *_: object) -> None:
        if self._waits is not None:
            self._waits.end(self)


def is_in_line(caller: str, awaited: str) -> bool:
    """Whether ``awaited`` is the caller itself, or one of its callers."""
    return caller == awaited or caller.startswith(f"{awaited}~")
