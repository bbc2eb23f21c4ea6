"""Everything there is to see of one execution, promise or timer."""

from __future__ import annotations

from typing import Any

from durasleep.dashboard.drawing.timeline import ROWS_MAX, timeline
from durasleep.dashboard.rendering import as_text
from durasleep.dashboard.views.look import Look
from durasleep.errors import DurasleepError
from durasleep.model import Kind, owner_of
from durasleep.query import call_tree
from durasleep.query.describe import Description
from durasleep.query.view import View as Published

_RESULTS_MAX = 100  # entries of a journal whose values are shown


async def load(look: Look) -> dict[str, Any]:
    """One execution with its timeline; a promise or timer with what there is."""
    id = look.path["id"]
    one = await look.client.describe(id)
    shown: dict[str, Any] = {
        "title": one.id,
        "one": one,
        "timeline": None,
        "published": None,
        "owner": above(one.id),
        "values": values_of(one) if look.show_values else {},
        "results": [],
        "verbs": verbs(one),
    }
    if one.kind == Kind.EXECUTION.value:
        shown["timeline"] = timeline(
            await look.store.run(call_tree.tree(look.store.keys, id, nodes_max=ROWS_MAX)), look.now_ms
        )
        shown["published"] = await _published(look, id)
        if look.show_values:
            shown["results"] = await _results(look, id)
    return shown


def above(id: str) -> str | None:
    """The execution that has called it."""
    owner = owner_of(id)
    return None if owner is None else owner[0]


def values_of(one: Description) -> dict[str, str]:
    """Its arguments and its result, as text."""
    found: dict[str, str] = {}
    if one.args:
        found["arguments"] = as_text(one.args)
    if one.kwargs:
        found["keyword arguments"] = as_text(one.kwargs)
    if one.state == "resolved":
        found["result"] = as_text(one.value)
    return found


def verbs(one: Description) -> tuple[str, ...]:
    """What a person may do to it now."""
    is_execution = one.kind == Kind.EXECUTION.value
    if one.status == "done":
        if not is_execution:
            return ()
        return ("fork",) if one.state == "resolved" else ("retry", "fork")
    if not is_execution:
        return ("wake", "reschedule", "cancel") if one.kind == Kind.TIMER.value else ("cancel",)
    timers = sum(waiting.kind == Kind.TIMER.value for waiting in one.waiting_on)
    found = ["resume" if one.status == "halted" else "halt"]
    if timers == 1 and one.status != "halted":
        found += ["wake", "reschedule"]
    return (*found, "send", "fork", "cancel")


async def _published(look: Look, id: str) -> Published | None:
    try:
        found = await look.client.view(id)
    except DurasleepError:  # it has gone meanwhile, or cannot be decoded: everything else is shown
        return None
    return found if found.values or found.progress or found.steps else None


async def _results(look: Look, id: str) -> list[tuple[str, str, str]]:
    """Number, name and value of the entries that have one."""
    recording = await look.client.export(id)
    found: list[tuple[str, str, str]] = []
    for entry in recording.entries:
        if entry.payload and entry.state.value == "resolved" and len(found) < _RESULTS_MAX:
            try:
                text = as_text(look.client.codec.decode(entry.payload))
            except (DurasleepError, TypeError, ValueError) as error:
                text = f"cannot be read: {error}"
            found.append((str(entry.number), entry.name or entry.kind.value, text))
    return found
