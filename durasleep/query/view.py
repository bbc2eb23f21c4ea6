"""What an execution publishes, for people and programs; no code of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from durasleep.codec import Codec
from durasleep.codec.published import StepProgress, decode_attempt, decode_run
from durasleep.model import PromiseId, State
from durasleep.protocol.view import RawView


@dataclass(frozen=True, slots=True)
class StepView:
    """What a step publishes."""

    values: Mapping[str, Any]
    """What it has published by ``durasleep.publish``, as plain data."""
    progress: StepProgress | None
    """How far it has come, if it says so by ``durasleep.progress``."""
    at_ms: int
    """When it published something last, by the server's clock, in ms since 1970."""


@dataclass(frozen=True, slots=True)
class View:
    """What an execution publishes, and how far it has come. ``app.view`` gives it, and ``app.watch`` each change."""

    id: str
    """The id of the execution."""
    state: State
    """Its state: ``pending`` until it has ended."""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the workflow has published by ``ctx.publish``, or the task by ``durasleep.publish``, as plain data."""
    progress: StepProgress | None = None
    """How far the task has come; of a workflow, its step that has spoken last."""
    steps: Mapping[str, StepView] = field(default_factory=dict[str, StepView])
    """What the steps of a workflow publish, by the numbers of their first attempts, in the order of the calls; at most
    the 64 that have spoken last."""

    @property
    def status(self) -> Any:
        """The published value of that name; None if there is none."""
        return self.values.get("status")

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state is not State.PENDING


def view_of(id: PromiseId, found: RawView, codec: Codec) -> View:
    """What is kept, decoded. What earlier runs have published is left out: see ``continue_as_new``."""
    values: Mapping[str, Any] = {}
    if found.workflow is not None:
        base, said = decode_run(codec, found.workflow.payload)
        if base == found.base:
            values = said
    steps: dict[str, StepView] = {}
    for number in sorted(found.steps, key=_in_order):
        if not number or int(number.partition(".")[0]) > found.base:
            one = found.steps[number]
            steps[number] = StepView(*decode_attempt(codec, one.payload), one.at_ms)
    latest = max((one for one in steps.values() if one.progress), key=lambda one: one.at_ms, default=None)
    task = steps.pop("", None)
    return View(
        id=id,
        state=found.state,
        values=values if task is None else {**values, **task.values},
        progress=None if latest is None else latest.progress,
        steps=steps,
    )


def _in_order(number: str) -> list[int]:
    return [int(part) for part in number.split(".") if part]
