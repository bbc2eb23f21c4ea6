"""Messages to executions: what is sent, and what a mailbox answers."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any

import msgspec

from durasleep.model import Delivery, Due, PromiseId
from durasleep.protocol.command import BatchItem, Command, pairs, route, to_text
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created, parse_created

_DIGEST_BYTES = 12  # of a key: two of the thousand that a mailbox remembers never agree
_PAGE = b"1000"  # fields of a mailbox: it has at most some ten thousand
_WORDS = {delivery.value.encode(): delivery for delivery in Delivery}


class Sent(msgspec.Struct, frozen=True):
    """What has become of a message."""

    delivery: Delivery
    reply: Created | None = None
    """The promise of its answer, if it asks for one."""


def new_call() -> str:
    """The id of one more call: a repeated one hears what it was answered before. A thousand are remembered, so that 64
    bits never agree.
    """
    return secrets.token_urlsafe(8)


def digest_of(channel: str, key: str) -> str:
    """What is remembered of a key: it is one of its channel."""
    digest = hashlib.blake2b(f"{channel}\n{key}".encode(), digest_size=_DIGEST_BYTES).digest()
    return base64.urlsafe_b64encode(digest).decode()


def send(
    keys: Keyspace,
    id: PromiseId,
    channel: str,
    value: bytes,
    call: str,
    *,
    key: str | None = None,
    start: BatchItem[Created] | None = None,
    reply: PromiseId | None = None,
    due: Due | None = None,
    inbox: str = "",
) -> BatchItem[Sent]:
    """Send a message to an execution; NotFound if there is none, Ended if it has ended, MailboxFull if it has too many.

    ``start`` is a ``create`` that makes it then. ``reply`` is the promise of an answer, made until ``due`` for
    ``inbox``.
    """
    memo, call = (f"i{call}", "") if key is None else (f"k{digest_of(channel, key)}", call)
    to = route("send", keys)
    item = to.script.item(
        id=id, channel=channel, memo=memo, caller=call, reply=reply or "", due=due or "", inbox=inbox, value=value
    )
    if start is not None:
        item += start.args[2:]  # all but their number and the id
        item[0] = str(len(item) - 1)
    return BatchItem(to, item, _parse_sent, len(value) if start is None else len(value) + start.payload_bytes)


class Mailbox(msgspec.Struct, frozen=True):
    """How full a mailbox is."""

    messages: int
    bytes: int


def read_mailbox(keys: Keyspace, id: str) -> Command[Mailbox | None]:
    """The unread messages of an execution; None if it has no mailbox."""

    def parse(raw: bytes | None) -> Mailbox | None:
        if raw is None:
            return None
        messages, size, *_ = raw.split()
        return Mailbox(int(messages), int(size))

    return Command([b"HGET", keys.mail(id).encode(), b"n"], parse)


def read_unread(keys: Keyspace, id: str, cursor: bytes) -> Command[tuple[bytes, dict[str, int]]]:
    """A page of a mailbox: the next cursor, b"0" at the end, and unread messages by channel."""

    def parse(answer: tuple[bytes, list[bytes]]) -> tuple[bytes, dict[str, int]]:
        cursor, rows = answer
        unread: dict[str, int] = {}
        for name, ends in pairs(rows):
            head, tail = ends.split()
            unread[to_text(name[1:])] = int(tail) - int(head)
        return cursor, unread

    return Command([b"HSCAN", keys.mail(id).encode(), cursor, b"MATCH", b"c*", b"COUNT", _PAGE], parse)


def _parse_sent(answer: Any) -> Sent:
    if isinstance(answer, bytes):
        return Sent(_WORDS[answer])
    word, reply = answer
    return Sent(_WORDS[word], parse_created("", None, reply))
