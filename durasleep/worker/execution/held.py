"""An execution in hand: from its stream entry to the commit that lets go of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from durasleep.model import Entry, Number, Op
from durasleep.protocol.command import BatchItem
from durasleep.protocol.commit import Committed, Lease


class Work(Protocol):
    """What is done with an execution in hand: a workflow that is driven, a task that is tried.

    All of it is called from plain callbacks, outside any asyncio task: user code may run in it.
    """

    def commit(self) -> BatchItem[Committed] | None:
        """What is to be written now; None if there is nothing to write."""
        ...

    def take(self, answer: Committed) -> None:
        """Go on with what ``commit`` was answered."""
        ...

    def take_back(self) -> bool:
        """What ``commit`` gave last was refused: whether it is kept to be said again, as user code would run again."""
        ...

    def put_away(self) -> None:
        """It is not in hand any more."""
        ...


class HeldExecution(msgspec.Struct, eq=False):
    """What a worker knows of an execution it holds."""

    lease: Lease
    entry_key: tuple[str, str]
    """That of the lease."""
    work: Work | None = None
    """None until it has been loaded."""
    task: asyncio.Task[None] | None = None
    """Where something must be waited for before the work can begin, or go on."""
    order: int = 0
    """The newest order stamp heard of; above what was fed, there is news."""
    ops: tuple[Op, ...] = ()
    """What is to be committed, in the order it was asked for or came about."""
    steps: dict[Number, asyncio.Task[Any]] = {}
    """Calls of user code that are under way."""
    has_unseen: bool = False
    """Something may have settled for it."""
    is_due: bool = False
    """Whether it is among those to be committed at the end of this turn of the loop."""
    is_committing: bool = False
    """Whether a commit has not been answered yet: until then there is no other."""
    is_gone: bool = False
    """Whether it is not in hand any more: what still comes for it is dropped."""
    is_suspect: bool = False
    is_kept: bool = False
    """Whether it may go on from where it was here."""

    def note_order(self, entries: Sequence[Entry]) -> None:
        """These settlements have been heard of, the latest last."""
        if entries:
            self.order = max(self.order, entries[-1].stamp)
