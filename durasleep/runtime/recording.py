"""The journal of one execution in a file, and whether today's code still fits it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from durasleep.codec import Codec
from durasleep.codec.exceptions import error_line
from durasleep.errors import UsageError
from durasleep.model import PRIORITY, Entry, Kind, Number, PromiseId, Recording, State, root_of
from durasleep.runtime.activation import Activation, version_of
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.definition import Registry, TaskDefinition, WorkflowDefinition
from durasleep.runtime.outcome import CanceledOutcome, Continued, Halted, Rejected, Resolved, WorkflowOutcome
from durasleep.settings import Settings
from durasleep.traits import check_labels

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of replaying one execution."""

    id: str
    """The id of the execution."""
    function: str
    """The name of its function."""
    ok: bool
    """Whether today's code fits its journal."""
    text: str
    """Its state, or the difference."""


def check(recording: Recording, registry: Registry, codec: Codec, settings: Settings) -> Verdict:
    """Run today's code over a recorded journal. No step is run and nothing is written."""

    def verdict(ok: bool, text: str) -> Verdict:
        return Verdict(recording.id, recording.function, ok, text)

    definition = registry.get(recording.function)
    if isinstance(definition, TaskDefinition):
        return verdict(True, "a task: it is not replayed")
    version = version_of(recording.entries)
    if definition is not None and version is not None:
        definition = registry.get_version(recording.function, version)
    if not isinstance(definition, WorkflowDefinition):
        what = f"version {version} of the function" if registry.get(recording.function) else "the function"
        return verdict(False, f"{what} {recording.function!r} is not here")
    activation = Activation(
        definition, _info(recording, definition), recording.args, codec, settings=settings, base=recording.base
    )
    try:
        progress = activation.start(recording.entries, recording.unseen)
        positions = activation.positions()
    finally:
        activation.close()
    if isinstance(progress.outcome, Halted):
        return verdict(False, progress.outcome.reason)
    if recording.state in (State.RESOLVED, State.REJECTED):
        expected, found = _recorded_ending(recording, codec), _ending(progress.outcome, codec)
        if found != expected:
            return verdict(False, f"it ended differently:\n  - {expected}\n  + {found}")
        return verdict(True, expected)
    if recording.state is not State.PENDING:
        return verdict(True, f"{recording.state}")
    return verdict(True, _ending(progress.outcome, codec) if progress.outcome else f"waits {positions}")


def _info(recording: Recording, definition: WorkflowDefinition) -> ExecutionInfo:
    return ExecutionInfo(
        id=recording.id,
        root_id=root_of(recording.id),
        function=recording.function,
        group=recording.group,
        incarnation=recording.incarnation,
        created_ms=recording.created_ms,
        begun_ms=recording.begun_ms,
        version=definition.version,
        origins=recording.origins,
        priority=recording.priority,
        labels=recording.labels,
    )


def _recorded_ending(recording: Recording, codec: Codec) -> str:
    if recording.state is State.RESOLVED:
        return _ending(Resolved(recording.value), codec)
    error = codec.decode_error(recording.value)
    return f"rejected: {error_line(error)}"


def _ending(outcome: WorkflowOutcome | None, codec: Codec) -> str:
    match outcome:
        case Resolved(payload):
            return f"resolved: {codec.decode(payload)!r}"
        case Rejected(payload=payload):
            error = codec.decode_error(payload)
            return f"rejected: {error_line(error)}"
        case CanceledOutcome():
            return "canceled"
        case Continued():
            return "goes on as a new run"
        case Halted(reason):
            return f"halted: {reason}"
        case None:
            return "still waiting"


# -- in a file


def dumps(recording: Recording) -> str:
    """One line of JSON; payloads are in base64 as they are in Redis, encrypted if they are encrypted there."""
    entries = [
        {
            "number": entry.number,
            "kind": entry.kind.value,
            "state": entry.state.value,
            "name": entry.name,
            "stamp": entry.stamp,
            "due_ms": entry.due_ms,
            "begun_ms": entry.begun_ms,
            "child_id": entry.child_id,
            "payload": _to_text(entry.payload),
        }
        for entry in recording.entries
    ]
    return json.dumps(
        {
            "durasleep": _FORMAT,
            "id": recording.id,
            "function": recording.function,
            "group": recording.group,
            "state": recording.state.value,
            "birth": recording.incarnation,
            "created_ms": recording.created_ms,
            "begun_ms": recording.begun_ms,
            "base": recording.base,
            "origins": recording.origins,
            "priority": recording.priority,
            "labels": dict(recording.labels),
            "args": _to_text(recording.args),
            "value": _to_text(recording.value),
            "unseen": sorted(recording.unseen),
            "entries": entries,
        },
        ensure_ascii=False,
    )


def loads(line: str) -> Recording:
    """Reads the output of ``dumps``; UsageError for anything else."""
    try:
        document: Any = json.loads(line)
        _check_format(document["durasleep"])
        return Recording(
            id=PromiseId(_text(document, "id")),
            function=_text(document, "function"),
            group=_text(document, "group"),
            state=State(document["state"]),
            incarnation=int(document["birth"]),
            created_ms=int(document["created_ms"]),
            begun_ms=int(document["begun_ms"]),
            base=int(document["base"]),
            origins=str(document.get("origins", "")),
            priority=int(document.get("priority", PRIORITY)),
            labels=check_labels(document.get("labels", {})),
            args=_from_text(document["args"]),
            value=_from_text(document["value"]),
            unseen=frozenset(str(number) for number in document["unseen"]),
            entries=tuple(_entry(entry) for entry in document["entries"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"this is not a recording of an execution: {error!r}") from None


def _check_format(found: object) -> None:
    if found != _FORMAT:
        raise ValueError(f"it has format {found!r}, but this version reads format {_FORMAT}")


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(
        number=Number(_text(document, "number")),
        kind=Kind(document["kind"]),
        state=State(document["state"]),
        name=_text(document, "name"),
        stamp=int(document["stamp"]),
        due_ms=int(document["due_ms"]),
        begun_ms=int(document.get("begun_ms", 0)),
        child_id=_text(document, "child_id"),
        payload=_from_text(document["payload"]),
    )


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}")
    return value


def _to_text(payload: bytes) -> str:
    return base64.b64encode(payload).decode()


def _from_text(text: object) -> bytes:
    return base64.b64decode(cast("str", text), validate=True)
