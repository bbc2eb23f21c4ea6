"""Which executions have unread messages, with no I/O: a plan of bounded reads."""

from __future__ import annotations

from typing import Any

import msgspec

from durasleep.protocol import channels
from durasleep.protocol.channels import Mailbox
from durasleep.protocol.command import Plan
from durasleep.protocol.keys import NEAR
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.query import search
from durasleep.query.search import SearchPage

LOOKED_MAX = 1_000  # mailboxes read for one answer


class MailboxSummary(msgspec.Struct, frozen=True):
    """A mailbox with unread messages."""

    id: str
    """The execution."""
    messages: int
    """How many there are."""
    bytes: int
    """The size of all of them."""


class MailboxPage(list[MailboxSummary]):
    """Some mailboxes, the fullest first."""

    is_all = True
    """Whether there are no others."""
    total = 0
    """How many mailboxes there are, also empty ones."""


def fullest(keyspaces: Keyspaces, limit: int) -> Plan[MailboxPage]:
    """The fullest of the mailboxes; at most ``LOOKED_MAX`` are looked at."""
    found = SearchPage()
    named = {id: keys for keys, id in (yield from search.named_keys(keyspaces, NEAR["mail"], found))}
    looked_at = list(named.items())[:LOOKED_MAX]
    boxes: list[Any] = (yield [channels.read_mailbox(keys, id) for id, keys in looked_at]) if looked_at else []
    page = MailboxPage(
        MailboxSummary(id, box.messages, box.bytes)
        for (id, _), box in zip(looked_at, boxes, strict=True)
        if isinstance(box, Mailbox) and box.messages
    )
    page.sort(key=lambda one: (-one.messages, -one.bytes, one.id))
    page.is_all = found.is_all and len(named) <= LOOKED_MAX and len(page) <= limit
    page.total = len(named)
    del page[limit:]
    return page
