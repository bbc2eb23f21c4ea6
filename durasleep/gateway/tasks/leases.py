"""The leases of task workers that speak HTTP, as tokens: any gateway extends and ends a lease, and remembers none."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
from contextlib import suppress
from typing import Any

import msgspec

from durasleep import humanize
from durasleep.codec import Codec
from durasleep.codec.exceptions import error_line
from durasleep.codec.published import StepProgress, encode_attempt
from durasleep.errors import (
    DurasleepError,
    Fenced,
    NotAllowed,
    PayloadTooLarge,
    RemoteError,
    StoreUnavailable,
    UsageError,
)
from durasleep.model import (
    CANCEL,
    Checkpoint,
    CommitAction,
    Entry,
    Number,
    Op,
    PromiseId,
    State,
    StepResult,
    group_of,
)
from durasleep.observe import logs
from durasleep.protocol import commit, journal, membership, versions
from durasleep.protocol.commit import Lease
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.membership import Lent
from durasleep.query import declaring
from durasleep.runtime.retry import Retry, RetryAfter
from durasleep.transport import handshake
from durasleep.transport.store import Store
from durasleep.worker.execution.checkpoints import BYTES_MAX as CHECKPOINT_BYTES_MAX

logger = logging.getLogger("durasleep")

_FIRST = "1"
"""By this number the checkpoint of a task is named: that of its first attempt."""
KEEP_S = 1.0
"""How long a heartbeat waits until what an attempt says of itself is kept. Its lease has been extended before."""
TOKEN_CHARACTERS_MAX = 65_536
"""Enough for a policy with as many names of errors as there may be, each as long as it may be."""


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True):
    """When a failed attempt is followed by another one, see ``Retry``."""

    attempts: int = 5
    delay: float | str = 1.0
    backoff: float = 2.0
    delay_max: float | str = 3600.0
    jitter: float = 0.2
    retry_on: tuple[str, ...] | None = None
    """Names of errors; None for all."""
    give_up_on: tuple[str, ...] = ()

    def to_retry(self) -> Retry:
        """The same as ours; UsageError or InvalidDuration for values that cannot be used."""
        return Retry(
            attempts=self.attempts,
            delay=self.delay,
            backoff=self.backoff,
            delay_max=self.delay_max,
            jitter=self.jitter,
            retry_on=(Exception,) if self.retry_on is None else self.retry_on,
            give_up_on=self.give_up_on,
        )


class Token(msgspec.Struct, frozen=True, array_like=True):
    """All that a gateway needs to know of a lease."""

    partition: int
    queue: str
    entry: str
    epoch: int
    id: str
    consumer: str
    """It holds this lease, and no other one."""
    function: str
    attempt: int
    """The number of this attempt, from 1."""
    begun_ms: int
    """When the attempt began, in ms since its execution was made."""
    lease_ms: int
    info: str
    """From where it was lent, for people."""
    retry: RetryPolicy | None = None

    @property
    def lease(self) -> Lease:
        """As the commits need it."""
        return Lease(PromiseId(self.id), self.queue, self.entry, self.epoch, partition=self.partition)

    @property
    def group(self) -> str:
        """The group to whose queue the execution belongs."""
        return group_of(self.queue)


_DECODER = msgspec.msgpack.Decoder(Token)


def write_token(token: Token) -> str:
    """The text that a worker gets, and gives back with each request about its lease."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def read_token(text: str, group: str, store: Store) -> Token:
    """What a worker gave back; UsageError if it is no token of this group."""
    wrong = UsageError("lease is not one that :poll of this group has answered")
    if len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
        raise wrong
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        token = _DECODER.decode(raw)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise wrong from None
    is_ours = (
        0 <= token.partition < len(store.keyspaces)
        and token.group == group
        and token.consumer.count("/") == 1
        and store.keys(token.id).partition == token.partition
        and token.epoch > 0
        and token.attempt >= 1
        and 0 <= token.begun_ms < _MS_MAX
        and 0 < token.lease_ms < _MS_MAX
        and not any(part in token.entry + token.queue + token.id for part in "\t\n\0")
    )
    if not is_ours:
        raise wrong
    return token


_MS_MAX = 1 << 50


class Failure(msgspec.Struct, frozen=True):
    """What a worker says of an attempt that has failed."""

    error: RemoteError
    details: str = ""
    """For people, as text."""
    retryable: bool | None = None
    """False for no other attempt; true for the usual policy, if its function has none."""
    delay: float | str | None = None
    """Until the next attempt, if there is one; seconds, or text such as ``"30s"``."""


class Failed(msgspec.Struct, frozen=True):
    """What follows a failure."""

    state: State
    """``pending`` if there is another attempt."""
    next_in_ms: int | None = None


class Leases:
    """Extends and ends leases."""

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec

    def _keys(self, token: Token) -> Keyspace:
        return self._store.keyspaces[token.partition]

    async def extend(
        self,
        token: Token,
        *,
        published: dict[str, Any] | None = None,
        progress: StepProgress | None = None,
        checkpoint: bytes | None = None,
    ) -> Lent:
        """Extend a lease by its whole time, and keep what the attempt says of itself; Fenced if it is lost.

        A later ``checkpoint`` replaces an earlier one; so do the values and the progress that are ``published``.
        PayloadTooLarge for more than 32 KiB of a checkpoint, or 4 KiB of published values; that is not kept then,
        but the lease is extended. If Redis is full, what is published is left out, and a checkpoint is a
        StoreUnavailable, both after a second: waiting for longer would cost the lease.
        """
        keys, lease = self._keys(token), token.lease
        lent = await self._store.call(
            membership.lend(
                keys,
                token.consumer,
                token.consumer,
                lease,
                group=token.group,
                info=token.info,
                knows=handshake.KNOWS,
                lease_ms=token.lease_ms,
            )
        )
        number = str(token.attempt)
        if checkpoint is not None:
            if len(checkpoint) > CHECKPOINT_BYTES_MAX:
                raise PayloadTooLarge(
                    f"the checkpoint: {len(checkpoint)} bytes are over the cap of {CHECKPOINT_BYTES_MAX}"
                )
            try:
                async with asyncio.timeout(KEEP_S):
                    await self._store.call(commit.note(keys, token.consumer, lease, number, _FIRST, checkpoint))
            except TimeoutError:
                raise StoreUnavailable("the lease is extended, but Redis does not keep the checkpoint now") from None
        if published is not None or progress is not None:
            payload = encode_attempt(self._codec, published or {}, progress, f"task {token.function}")
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_S):
                    await self._publish(token, number, payload)
        return lent

    async def _publish(self, token: Token, number: str, payload: bytes) -> None:
        if versions.CHANNELS not in self._store.partitions.features:
            await self._store.run(declaring.require(self._store.keyspaces, versions.CHANNELS))
            self._store.partitions.features.add(versions.CHANNELS)
        await self._store.call(commit.publish(self._keys(token), token.consumer, token.lease, number, "", payload))

    async def complete(self, token: Token, value: object) -> State:
        """End an execution with a value; Fenced if the lease is lost, NotSerializable or PayloadTooLarge for a value
        that cannot be kept. If this lease has already ended it so, nothing happens.
        """
        payload = self._codec.encode(value, f"the result of {token.function}")
        return await self._end(token, CommitAction.RESOLVE, State.RESOLVED, payload)

    async def cancel(self, token: Token) -> State:
        """End an execution as canceled; NotAllowed if nobody has canceled it."""
        record, is_canceled, _ = await self._look(token)
        if record is not None and _is_end(record, token, State.CANCELED):
            return State.CANCELED
        self._check_held(record, token)
        if not is_canceled:
            raise NotAllowed(f"nobody has canceled {token.id}: say how it failed")
        return await self._end(token, CommitAction.CANCEL, State.CANCELED, b"")

    async def fail(self, token: Token, failure: Failure) -> Failed:
        """An attempt has failed: the next one follows, as the policy says, or the execution fails. Fenced if the lease
        is lost. If this lease has already said so, nothing happens.
        """
        if failure.details:
            failure.error.add_note(failure.details)
        error: Exception = failure.error
        wish = error if failure.delay is None else RetryAfter(failure.delay)
        payload = self._codec.encode_error(error)
        record, is_canceled, failed = await self._look(token)
        if (told := self._told(record, failed, token, payload)) is not None:
            return told
        self._check_held(record, token)
        policy = token.retry or (RetryPolicy() if failure.retryable else None)
        retry = None if policy is None or is_canceled or failure.retryable is False else policy.to_retry()
        if retry is None or not retry.wants(error, token.attempt):
            ended = await self._end(token, CommitAction.REJECT, State.REJECTED, payload)
            self._log(token, f"rejected: {error_line(error)}", error)
            return Failed(ended)
        delay_ms = retry.delay_ms(wish, token.attempt, random.random())
        said = f"attempt {token.attempt} of {retry.attempts} failed: {error_line(error)}"
        step = StepResult(Number(str(token.attempt)), token.function, State.REJECTED, payload, token.begun_ms)
        try:
            await self._commit(token, CommitAction.RETRY, said.encode(), ops=(step,), due=f"+{delay_ms}")
        except Fenced:
            record, _, failed = await self._look(token)
            if (told := self._told(record, failed, token, payload)) is None:
                raise
            return told
        self._log(token, f"{said}; next in {humanize.describe_ms(delay_ms)}", error)
        return Failed(State.PENDING, delay_ms)

    def _log(self, token: Token, said: str, error: Exception) -> None:
        about = logs.about(token.id, token.function, attempt=token.attempt, group=token.group, trace="", failure=error)
        logger.warning("%s %s", token.id, said, extra=about)

    def _now_ms(self, token: Token) -> int:
        return self._store.clock(self._keys(token)).now_ms()

    async def _look(self, token: Token) -> tuple[PromiseRecord | None, bool, Entry | None]:
        """The execution, whether it was canceled, and how this attempt has failed, if that is in its journal."""
        keys, id = self._keys(token), PromiseId(token.id)
        answers = await self._store.ask(
            [
                journal.read_record(keys, id),
                journal.read_entry(keys, id, CANCEL),
                journal.read_entry(keys, id, str(token.attempt)),
            ]
        )
        for answer in answers:
            if isinstance(answer, DurasleepError):
                raise answer
        record, cancel, failed = answers
        return record, cancel is not None, failed

    def _told(self, record: PromiseRecord | None, failed: Entry | None, token: Token, payload: bytes) -> Failed | None:
        """What has followed, if this lease has already said that its attempt has failed with this error.

        Another lease of the same attempt has begun at another time: this one had to run out before.
        """
        if record is None:
            return None
        if _is_end(record, token, State.REJECTED):
            return Failed(State.REJECTED) if self._are_equal(record.value, payload) else None
        if failed is None or failed.state is not State.REJECTED or not self._are_equal(failed.payload, payload):
            return None
        if _told_ms(failed.begun_ms) != _told_ms(token.begun_ms):
            return None
        is_pending = record.state is State.PENDING
        return Failed(record.state, max(0, record.due_ms - self._now_ms(token)) if is_pending else None)

    def _check_held(self, record: PromiseRecord | None, token: Token) -> None:
        if record is None or record.entry != token.entry or record.epoch != token.epoch:
            raise Fenced(f"{token.id} has ended, or another worker has it")

    async def _end(self, token: Token, outcome: CommitAction, state: State, payload: bytes) -> State:
        try:
            await self._commit(token, outcome, payload, ops=(Checkpoint(Number(_FIRST)),))
        except Fenced:
            record = await self._store.call(journal.read_record(self._keys(token), PromiseId(token.id)))
            if record is None or not _is_end(record, token, state) or not self._are_equal(record.value, payload):
                raise
        return state

    def _are_equal(self, value: bytes, payload: bytes) -> bool:
        """Whether two payloads have the same value; a hook may encrypt each in another way."""
        return value == payload or self._codec.decode(value) == self._codec.decode(payload)

    async def _commit(
        self, token: Token, outcome: CommitAction, payload: bytes, *, ops: tuple[Op, ...] = (), due: str = ""
    ) -> None:
        keys = self._keys(token)
        committed, _ = await self._store.ask(
            [
                commit.commit(
                    keys, token.consumer, token.lease, outcome, ops=ops, payload=payload, due=due, open=False
                ),
                membership.part(keys, token.consumer, token.queue),  # if this fails, the consumer ends with its lease
            ]
        )
        if isinstance(committed, DurasleepError):
            raise committed


async def release_lent(store: Store, keys: Keyspace, lease: Lease, consumer: str) -> None:
    """What was lent to a consumer goes back to the queue, with no attempt counted, and the consumer ends."""
    for queue in dict.fromkeys((lease.queue, group_of(lease.queue))):
        await store.call(
            membership.reclaim(keys, consumer, queue, beat="", release="all", max_attempts=store.settings.max_attempts)
        )


def _told_ms(begun_ms: int) -> int:
    """As an entry tells it."""
    return begun_ms if begun_ms >= LIMIT["begin_ms_min"] else 0


def _is_end(record: PromiseRecord, token: Token, state: State) -> bool:
    """Whether an execution has ended in this state by the commit of this lease, as far as can be known."""
    return record.state is state and record.epoch == token.epoch
