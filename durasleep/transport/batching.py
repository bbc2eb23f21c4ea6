"""Calls joined to commands and replies split among calls, with no I/O: one EVALSHA per script for all its items."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, cast

import msgspec

from durasleep.errors import DurasleepError, NotReplicated, StoreError, StoreRefused, StoreUnavailable
from durasleep.model import Op
from durasleep.protocol import script, server
from durasleep.protocol.command import BatchItem, Call, Command, Reply, Route, error_of
from durasleep.protocol.commit import op_bytes
from durasleep.protocol.script import Value
from durasleep.settings import Settings
from durasleep.transport.reply_errors import error_text, is_unknown_script, refusal

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0  # a Redis that comes back is used again within two seconds
AGAIN = object()
"""Stands for an answer: the items of this call have reached the byte limit of one call; send this one again at once."""
_AGAIN, _ERROR = [b"again"], b"error"


class Joined(msgspec.Struct, eq=False):
    """One command, and the positions of the calls it carries."""

    command: list[Value]
    positions: list[int]
    size: int = 0
    """Bytes of payloads."""


def join(calls: Sequence[Call], settings: Settings) -> list[Joined]:
    """The commands to send for some calls."""
    joined: list[Joined] = []
    open_batches: dict[Route, Joined] = {}
    for position, call in enumerate(calls):
        if isinstance(call, Command):
            joined.append(Joined([*call.args], [position]))
            continue
        size = call.known_bytes if call.known_bytes >= 0 else call.payload_bytes
        batch = open_batches.get(call.route)
        if (
            batch is None
            or len(batch.positions) >= settings.batch_items_max
            or batch.size + size > settings.batch_bytes_max
        ):
            batch = Joined([*call.route.command], [])
            joined.append(batch)
            open_batches[call.route] = batch
        batch.command += call.args
        batch.positions.append(position)
        batch.size += size
    return joined


def split_ops(ops: Sequence[Op], settings: Settings) -> list[list[Op]]:
    """The ops of one commit, in parts that one script call may do; at least one part."""
    parts: list[list[Op]] = [[]]
    size = 0
    for op in ops:
        carried = op_bytes(op)
        if len(parts[-1]) >= settings.commit_ops_max or (parts[-1] and size + carried > settings.batch_bytes_max):
            parts.append([])
            size = 0
        parts[-1].append(op)
        size += carried
    return parts


def exchange_plan(calls: Sequence[Call], settings: Settings) -> Generator[list[list[Value]], list[Reply], list[Reply]]:
    """What to send for some calls: it yields commands, is sent their replies, and returns the raw answer to each call.

    A raw answer is the part of a reply that belongs to the call, or an error reply as the exception it is.

    Scripts are sent by their digests. The plan mostly yields once. A server that was started anew has forgotten the
    scripts: then the plan yields a second time, with the source of each script the server did not know.
    """
    joined = join(calls, settings)
    replies = yield [one.command for one in joined]
    unknown = [index for index, reply in enumerate(replies) if is_unknown_script(reply)]
    if unknown:
        again = yield [_with_source(calls, joined[index], replies[index]) for index in unknown]
        for index, reply in zip(unknown, again, strict=True):
            replies[index] = reply
    return _split(calls, joined, replies)


def _with_source(calls: Sequence[Call], one: Joined, reply: Reply) -> list[Value]:
    """The same command with the whole script, for a server that does not know the script."""
    lua = calls[one.positions[0]].script  # the calls of one command run one script
    if lua is None:
        raise StoreError(str(reply))
    return script.as_eval(lua, one.command)


def _split(calls: Sequence[Call], joined: Sequence[Joined], replies: Sequence[Reply]) -> list[Reply]:
    """For each call its own part of the reply. If the reply is one error, each call of the command gets it."""
    raws: list[Reply] = [None] * len(calls)
    for one, reply in zip(joined, replies, strict=True):
        is_batch = isinstance(calls[one.positions[0]], BatchItem)
        has_parts = is_batch and isinstance(reply, list)
        parts: list[Reply] = cast("list[Reply]", reply) if has_parts else [reply] * len(one.positions)
        for position, part in zip(one.positions, parts, strict=True):
            raws[position] = part
    return raws


def answer_of(call: Call, raw: Reply) -> Any:
    """The answer of a call, an error as the exception it is. StoreUnavailable or StoreRefused if the server did not
    serve it, and ``AGAIN`` if it was not even looked at.

    Nothing of such a call was applied. This also holds when the server is full: a script stops at its first write or,
    if it has freed memory, runs to its end.
    """
    try:
        if isinstance(raw, bytes):  # the answer of most items
            return call.parse(raw)
        if isinstance(raw, Exception):
            return refusal(raw) or error_of(error_text(raw))
        if isinstance(raw, list) and isinstance(call, BatchItem):
            words = cast("list[bytes]", raw)
            if words == _AGAIN:
                return AGAIN
            if words[0] == _ERROR:
                return refusal(words[1].decode(errors="replace")) or error_of(words[1])
        return call.parse(raw)
    except DurasleepError as error:
        return error
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        return StoreError(f"an answer of Redis cannot be read: {error!r}")


def is_unserved(answer: Any, *, waits_for_rights: bool) -> bool:
    """Whether to repeat a call after this answer; only a worker waits for missing rights."""
    return isinstance(answer, StoreUnavailable) or (waits_for_rights and isinstance(answer, StoreRefused))


def confirmation(settings: Settings) -> list[Sequence[Value]]:
    """The command after those of an exchange, if it must be confirmed; it covers all writes before it."""
    if settings.fsync:
        return [server.wait_for_disk(settings.min_replicas, settings.confirm_timeout_s).args]
    if settings.min_replicas:
        return [server.wait_for_replicas(settings.min_replicas, settings.confirm_timeout_s).args]
    return []


def why_unconfirmed(replies: Sequence[Reply], settings: Settings) -> StoreUnavailable | None:
    """Why the writes of the calls that were served do not count yet; None if they do. They are made all the same, and
    it is safe to repeat them. A server that serves no call may not be able to confirm anything either.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            return StoreUnavailable(f"the server cannot confirm what is written: {error_text(reply)}")
        local, replicas = cast("tuple[int, int]", reply if isinstance(reply, list) else (1, reply))
        if settings.fsync and local < 1:
            return NotReplicated("written, but not known to be on disk")
        if replicas < settings.min_replicas:
            return NotReplicated(f"written, but received by {replicas} replicas of {settings.min_replicas}")
    return None


def check_confirmed(replies: Sequence[Reply], settings: Settings) -> None:
    """Raises what ``why_unconfirmed`` says."""
    problem = why_unconfirmed(replies, settings)
    if problem is not None:
        raise problem
