"""What executions publish, as it is kept: one field of a hash for the workflow, and one for each step."""

from __future__ import annotations

from typing import Any

import msgspec

from durasleep.errors import CorruptData
from durasleep.model import PromiseId, State
from durasleep.protocol.command import BatchItem, route, state_of, to_text
from durasleep.protocol.keys import VIEW, Keyspace


class Published(msgspec.Struct, frozen=True):
    """One field of a view."""

    at_ms: int
    """When it was published, by the server's clock."""
    payload: bytes


class RawView(msgspec.Struct, frozen=True):
    """What an execution publishes, before its values are decoded."""

    state: State
    """The state of the execution."""
    base: int
    """The last entry number of its earlier runs: what these have published does not count any more."""
    is_watched: bool
    """Whether the inbox will be notified of the next change."""
    workflow: Published | None
    steps: dict[str, Published]
    """By the numbers of their first attempts; that of a task is empty."""


def view_field(step: str | None) -> str:
    """The field of a step, by the number of its first attempt; of a task for an empty one, of the workflow for None."""
    return VIEW["workflow"] if step is None else VIEW["step"] + step


def read_view(keys: Keyspace, id: PromiseId, *, inbox: str = "") -> BatchItem[RawView]:
    """What an execution publishes; NotFound if there is none. An ``inbox`` will be notified of the next change."""

    def parse(answer: list[bytes]) -> RawView:
        state, base, watched, *fields = answer
        known = {name: _parse(id, raw) for name, raw in zip(fields[::2], fields[1::2], strict=True)}
        mark = VIEW["step"].encode()
        return RawView(
            state_of(state),
            int(base),
            watched == b"1",
            known.get(VIEW["workflow"].encode()),
            {to_text(name[1:]): one for name, one in known.items() if name[:1] == mark},
        )

    return _view(keys, id, inbox, "", parse)


def unwatch(keys: Keyspace, id: PromiseId, inbox: str) -> BatchItem[object]:
    """The inbox need not be notified of changes any more."""
    return _view(keys, id, inbox, "unwatch", bool)


def _view(keys: Keyspace, id: PromiseId, inbox: str, what: str, parse: Any) -> BatchItem[Any]:
    to = route("view", keys)
    return BatchItem(to, to.script.item(id=id, inbox=inbox, what=what), parse)


def _parse(id: str, raw: bytes) -> Published:
    at_ms, mark, payload = raw.partition(b"\t")
    if not (mark and at_ms.isdigit()):
        raise CorruptData(f"what {id} publishes is not ours: {raw[:60]!r}")
    return Published(int(at_ms), payload)
