"""Anybody who can write to Redis can write anything: each reader returns a value or an error, and does nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.client.inbox import _split  # pyright: ignore[reportPrivateUsage]
from durasleep.errors import CorruptData, InvalidId, NewerVersion, StoreError, UsageError
from durasleep.model import Kind, PromiseId, State, check_id, owner_of, parse_target, root_of
from durasleep.protocol import journal, promises, timers
from durasleep.protocol.command import BatchItem, Call
from durasleep.protocol.entry import parse_entry
from durasleep.protocol.keys import F, Keyspace
from durasleep.query import doctor
from durasleep.runtime.transaction_reply import read_reply
from durasleep.settings import DEFAULTS
from durasleep.transport import batching

KEYS = Keyspace("n")
FIELD = st.sampled_from([name.encode() for name in F.values()]) | st.binary(max_size=8) | st.just(b"1")
BYTES = st.binary(max_size=60) | st.sampled_from(
    [b"", b"p", b"r", b"e", b"7", b"-1", b"1e9", b"tp\t\t5\t\t\n", b"\xff"]
)


def read(call: Call, reply: Any) -> None:
    """As the batcher does it: the answer, or one of our errors; nothing is raised."""
    batching.answer_of(call, reply[0] if isinstance(call, BatchItem) else reply)


@given(st.binary(max_size=200))
def test_a_journal_entry_is_one_of_ours_or_corrupt(raw: bytes) -> None:
    try:
        entry = parse_entry(b"1", raw)
    except (CorruptData, NewerVersion):
        return
    assert raw.endswith(entry.payload)


@given(st.dictionaries(FIELD, BYTES, max_size=12))
def test_a_promise_is_one_of_ours_or_corrupt(fields: dict[bytes, bytes]) -> None:
    flat = [value for pair in fields.items() for value in pair]
    read(journal.read_page(KEYS, PromiseId("a")), [[*flat, b""]])
    record = journal.read_record(KEYS, PromiseId("a"))
    names = list(record.args)[2:]
    try:
        found = record.parse([fields.get(name) if isinstance(name, bytes) else None for name in names])
    except (CorruptData, NewerVersion):
        return
    assert found is None or found.id == "a"


@given(st.lists(BYTES, max_size=12))
def test_an_inbox_tells_whatever_is_in_it_and_never_fails(fields: list[bytes]) -> None:
    for told in _split(fields):
        assert all(isinstance(value, bytes) for value in told.values())


@given(st.lists(BYTES | st.lists(BYTES, max_size=4) | st.none() | st.integers(), max_size=10))
def test_any_answer_of_a_script_is_read_or_refused(answer: list[Any]) -> None:
    for call in (
        promises.create(KEYS, PromiseId("a"), kind=Kind.PROMISE),
        promises.settle(KEYS, PromiseId("a"), State.RESOLVED, b""),
        promises.control(KEYS, "wake", PromiseId("a")),
        journal.read_page(KEYS, PromiseId("a")),
    ):
        read(call, [answer or [b"error", b"X y"]])
    read(timers.fire(KEYS, limit=1), answer)


@given(st.text(max_size=40))
def test_an_id_or_target_is_taken_or_refused_by_name(text: str) -> None:
    try:
        id = check_id(text)
    except InvalidId:
        pass
    else:
        assert id.startswith(root_of(id))
        owner = owner_of(id)
        assert owner is None or id == f"{owner[0]}~{owner[1]}"
    try:
        assert parse_target(text).queue
    except UsageError:
        return


@given(st.binary(max_size=60) | st.sampled_from([b"*3\n:1\n$5\nabc", b"$99\nx", b":x\n", b"$-9\nx", b"*99999999\n"]))
def test_a_reply_of_a_transaction_is_read_or_corrupt(payload: bytes) -> None:
    try:
        read_reply(payload)
    except (CorruptData, NewerVersion):
        return


@given(st.text(max_size=200))
def test_whatever_a_server_says_of_itself_is_diagnosed(text: str) -> None:
    doctor.eviction(text.encode())


def test_a_reply_nested_beyond_measure_is_corrupt() -> None:
    with pytest.raises(CorruptData):
        read_reply(b"*1\n" * 100_000 + b":1\n")
    with pytest.raises(CorruptData):
        read_reply(b"*999999999\n$-5\n")  # it must not be read over and over


def test_what_cannot_be_confirmed_is_said() -> None:
    with pytest.raises(StoreError):
        batching.check_confirmed([RuntimeError("ERR x")], DEFAULTS)
