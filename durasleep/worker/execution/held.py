"""An execution that a worker holds: from its stream entry to the commit that gives up its lease."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from durasleep.model import Entry, Number, Op, State
from durasleep.protocol.command import BatchItem
from durasleep.protocol.commit import Committed, EntryKey, Lease


class Work(Protocol):
    """The work on a held execution: a workflow that runs, or a task with its attempts.

    All methods are called from plain callbacks, outside any asyncio task, because user code may run in them.
    """

    def commit(self) -> BatchItem[Committed] | None:
        """The next commit; None if there is nothing to write."""
        ...

    def take(self, answer: Committed) -> None:
        """Go on with the answer to ``commit``."""
        ...

    def take_back(self) -> bool:
        """The last commit was refused. Whether to repeat it, because else user code would run again."""
        ...

    @property
    def ending(self) -> State | None:
        """How the execution ends with the last commit; None if it does not."""
        ...

    def close(self) -> None:
        """The execution is not held any more."""
        ...


class HeldExecution(msgspec.Struct, eq=False):
    """What a worker knows about an execution that it holds."""

    lease: Lease
    entry_key: EntryKey
    """Of the lease."""
    is_kept: bool
    """Whether its work may go on here without a replay."""
    work: Work | None = None
    """None until it has been loaded."""
    task: asyncio.Task[None] | None = None
    """A task that waits for something before the work can begin, or go on."""
    order: int = 0
    """The newest order stamp that was reported; if it is above those delivered, there are new settlements."""
    ops: tuple[Op, ...] = ()
    """The ops and results to commit, in their order."""
    steps: dict[Number, asyncio.Task[Any]] = {}
    """Running calls of user code."""
    has_unseen: bool = False
    """An entry of it may have settled."""
    is_due: bool = False
    """Whether it is asked for a commit at the end of this turn of the loop."""
    is_committing: bool = False
    """Whether a commit has no answer yet: until then there is no other commit."""
    is_gone: bool = False
    """Whether its lease was given up: what arrives for it later is dropped."""
    is_suspect: bool = False
    function: str = ""
    """Its function, once that is known."""
    held_at: float = 0.0
    """Since when it has its slot, by the monotonic clock, if that is measured."""

    def note_order(self, entries: Sequence[Entry]) -> None:
        """These settlements have been delivered, the latest last."""
        if entries:
            self.order = max(self.order, entries[-1].stamp)
