"""Promises and executions from outside: creating, settling and controlling them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from durasleep.model import Disposition, Due, Kind, Place, PromiseId, State
from durasleep.protocol.command import DISPOSITION_OF, PLACE_OF, BatchItem, route, state_of, to_text
from durasleep.protocol.keys import KIND, LIMIT, STATE, Keyspace
from durasleep.protocol.script import Value


class Created(msgspec.Struct, frozen=True, gc=False):
    """What ``create`` has found or made."""

    disposition: Disposition
    state: State
    place: Place | None
    incarnation: int
    function: str
    value: bytes


def parse_created(function: str, place: Place | None, answer: list[Any] | bytes) -> Created:
    """The answer of ``create``; for a new promise it is only its incarnation."""
    if isinstance(answer, bytes):
        return Created(Disposition.CREATED, State.PENDING, place, int(answer), function, b"")
    disposition, state, found_place, incarnation, found_function, value = answer
    return Created(
        DISPOSITION_OF[disposition],
        state_of(state),
        PLACE_OF.get(found_place),
        int(incarnation),
        to_text(found_function),
        value,
    )


NO_TRAITS = "\t\t\t\t"


def retention_word(retention_ms: int | None) -> str:
    """How long something is kept; empty for the default."""
    return "" if retention_ms in (None, LIMIT["retention_ms"]) else str(retention_ms)


def retention_of_settings(retention_ms: int) -> str:
    """The same for a call that says nothing about it: what is declared of its function comes first."""
    return f"~{word}" if (word := retention_word(retention_ms)) else ""


def create(
    keys: Keyspace,
    id: PromiseId,
    *,
    kind: Kind,
    function: str = "",
    queue: str = "",
    args: bytes = b"",
    start: Due | None = None,
    deadline: Due | None = None,
    idempotency_key: str = "",
    inbox: str = "",
    retention: str = "",
    waiter: str = "",
    traits: str = "",
    trace: str = "",
) -> BatchItem[Created]:
    """Make an execution or a bare promise, or attach to the one with this id.

    ``retention`` is how long it is kept, in ms (see ``retention_of_settings``). ``waiter`` is one in another partition,
    see ``foreign``. ``traits`` are ``Traits.words``, ``trace`` is the span of the caller, see ``observe.tracing``.
    """
    to = route("create", keys, ("",))
    words = "\t".join(
        (KIND[kind], queue, start or "", deadline or "", inbox, retention, waiter, traits or NO_TRAITS, trace, function)
    )
    item = to.script.item(id=id, words=words, args=args, idempotency_key=idempotency_key)
    place = None if kind is not Kind.EXECUTION else Place.DELAYED if start else Place.QUEUED
    return BatchItem(to, item, partial(parse_created, function, place))


def create_like(common: BatchItem[Created]) -> Callable[[PromiseId, bytes, str, str | None], BatchItem[Created]]:
    """A function that makes one ``create`` after another, each from an id, its arguments, its idempotency key, and its
    traits if they are not those of ``common``.

    Everything else is as in ``common``: to build that again for each of thousands of calls took twice as long.
    """
    names = common.script.item_names
    id_at, args_at, key_at = (
        1 + names.index(name) for name in ("id", "args", "idempotency_key")
    )  # their number comes first

    words_at = 1 + names.index("words")
    before, after = _around_traits(common.args[words_at])

    def make(id: PromiseId, args: bytes, idempotency_key: str, traits: str | None) -> BatchItem[Created]:
        values = common.args.copy()
        if traits is not None:
            values[words_at] = "\t".join((*before, traits or NO_TRAITS, *after))
        values[id_at] = id
        values[args_at] = args
        values[key_at] = idempotency_key
        return BatchItem(common.route, values, common.parse, len(args))

    return make


def _around_traits(words: Value) -> tuple[list[str], list[str]]:
    """The words of a ``create`` before its traits and after them."""
    parts = (words.decode() if isinstance(words, bytes) else words).split("\t")
    return parts[:-7], parts[-2:]


def attach(keys: Keyspace, id: PromiseId, *, inbox: str = "") -> BatchItem[Created]:
    """Wait for the promise with this id, of any kind; NotFound if there is none."""
    to = route("create", keys, ("1",))
    item = to.script.item(id=id, words=f"\t\t\t\t{inbox}\t\t\t{NO_TRAITS}\t\t", args="", idempotency_key="")
    return BatchItem(to, item, partial(parse_created, "", None))


@dataclass(frozen=True, slots=True)
class Settled:
    """``by_us`` is false if the promise had settled before, in another way."""

    by_us: bool
    state: State
    value: bytes


def settle(keys: Keyspace, id: PromiseId, state: State, value: bytes) -> BatchItem[Settled]:
    """Resolve, reject or cancel a promise from outside."""
    to = route("settle", keys)
    item = to.script.item(id=id, state=STATE[state], payload=value)
    return BatchItem(to, item, lambda answer: Settled(answer[0] == b"settled", state_of(answer[1]), answer[2]))


@dataclass(frozen=True, slots=True)
class Controlled:
    """What was done to an execution, timer or promise."""

    word: str
    """What happened. ``woken``, ``rescheduled``, ``resumed``, ``retrying`` and ``canceled``: this was done.

    ``canceled while delayed``, ``canceled while halted``: it was canceled there, and no code of it ran.
    ``canceling``: its code is told at its next ``await``, and may clean up before it ends.
    ``halted``: it is halted now. After ``retry``: it has not failed, and needs ``resume``.
    ``running``: it is not halted (after ``resume``), or has not ended (after ``retry``). Nothing was changed.
    ``already``: it had settled, or had been woken, before. Nothing was changed.
    """
    state: State
    """Its state after that."""


def control(
    keys: Keyspace, action: str, id: PromiseId, *, due: Due | None = None, reason: str = "", by: str = ""
) -> BatchItem[Controlled]:
    """``wake``, ``reschedule``, ``cancel``, ``force``, ``halt``, ``resume`` or ``retry``; ``by`` whom, for the
    audit.
    """
    to = route("control", keys)
    item = to.script.item(action=action, id=id, due=due or "", reason=reason, by=by)
    return BatchItem(to, item, lambda answer: Controlled(to_text(answer[0]), state_of(answer[1])))


def discard_quarantined(keys: Keyspace, name: str, *, by: str = "") -> BatchItem[bool]:
    """Delete a quarantined name; returns whether there was one. NotAllowed for a halted execution."""
    to = route("control", keys)
    item = to.script.item(action="discard", id=name, due="", reason="", by=by)
    return BatchItem(to, item, lambda answer: answer[0] == b"discarded")
