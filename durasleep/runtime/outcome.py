"""What an activation asks for, and how a workflow ends."""

from __future__ import annotations

import msgspec

from durasleep.model import Number, Op
from durasleep.runtime.journal import Forgotten, StepCall


class Resolved(msgspec.Struct, frozen=True):
    """The workflow returned."""

    payload: bytes


class Rejected(msgspec.Struct, frozen=True):
    """The workflow raised."""

    payload: bytes
    text: str
    """For logs: type and message."""


class CanceledOutcome(msgspec.Struct, frozen=True):
    """The workflow was canceled from outside, and did not catch the cancel."""


class Halted(msgspec.Struct, frozen=True):
    """It waits for a person; ``reason`` says why, in one or more lines."""

    reason: str


class Continued(msgspec.Struct, frozen=True):
    """The workflow goes on as a new run with other arguments and an empty journal."""

    payload: bytes
    base: int
    """The last number of this run, so that no number is used twice."""


WorkflowOutcome = Resolved | Rejected | CanceledOutcome | Halted | Continued


class Progress(msgspec.Struct, frozen=True):
    """The requests of an activation when its code is blocked, finished or halted."""

    ops: tuple[Op, ...]
    """New ops to commit, in the order of the calls. At an ending: only those that outlive it."""
    steps: tuple[StepCall, ...]
    """Steps to begin now."""
    stop_steps: tuple[Number, ...]
    """Running steps to stop: those that the code has canceled (each has a CancelEntry); at an ending, all of them."""
    waiting: bool
    """Whether a pending entry, an op or a step can still wake it."""
    outcome: WorkflowOutcome | None
    warning: str = ""
    """Warnings for people."""
    forgotten: tuple[Forgotten, ...] = ()
    """Calls that the code does not await."""


class CloseReport(msgspec.Struct, frozen=True):
    """The result of an eviction."""

    leaked: tuple[str, ...]
    """Positions of the tasks that did not end. They stay in memory until the process ends."""
