"""Mailboxes of the model and of a server, in the same terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durasleep.model import State
from durasleep.protocol.channels import digest_of
from tests.model.channels import OUTGOING
from tests.model.state import Entry, Mailbox, Redis, partition_of

LETTER = {"delivered": "d", "stored": "s"}


def plain_entry(entry: Entry) -> Entry:
    """What is to be sent is read only by those who send it."""
    return entry._replace(payload=b"") if entry.kind in OUTGOING and entry.state is State.PENDING else entry


def shown_mail(model: Redis) -> dict[str, Any]:
    """The mailboxes of the model; what is unread in one without an owner is for nobody."""
    return {id: _shown(box) for id, box in model.mail}


def _shown(box: Mailbox) -> dict[str, Any]:
    lines = {
        f"{partition_of(line.sender.who)} {line.sender.incarnation} {line.sender.who}": (
            f"{LETTER.get(line.word, line.word)}{line.told or ''}"
        )
        for line in box.lines
    }
    return {
        "unread": {channel: [(one.reply, one.text) for one in messages] for channel, messages in box.unread},
        "keys": [(digest_of(channel, key), f"{LETTER[word]}{call}") for channel, key, call, word in box.keys],
        "calls": sorted((call, LETTER[word]) for call, word in box.calls),
        "lines": lines,
        "expires": box.expires,
    }


def read_mailbox(raw: Mapping[bytes, bytes], *, is_owned: bool, expires: bool) -> dict[str, Any]:
    """A mailbox of a server."""
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    count, size, keys, ring, lines = map(int, fields["n"].split())
    unread: dict[str, list[tuple[str, bytes]]] = {}
    for name in fields if is_owned else ():
        if name[0] == "c":
            head, tail = map(int, fields[name].split())
            texts = [fields[f"m{sequence} {name[1:]}"].partition("\n") for sequence in range(head, tail)]
            unread[name[1:]] = [(reply, text.encode()) for reply, _, text in texts]
    found = {name[1:]: value for name, value in fields.items() if name[0] == "x"}
    assert lines == len(found), f"{lines} lines are counted, and there are {found}"
    calls = sorted((name[1:], value) for name, value in fields.items() if name[0] == "i")
    assert {fields[f"I{n}"] for n in range(ring)} <= {call for call, _ in calls}
    texts = [text for its in unread.values() for _, text in its]
    assert not is_owned or (count, size) == (len(texts), sum(map(len, texts)))
    assert not is_owned or count == sum(name[0] == "m" for name in fields)
    return {
        "unread": unread,
        "keys": [(fields[f"K{n}"], fields[f"k{fields[f'K{n}']}"]) for n in range(keys)],
        "calls": calls,
        "lines": found,
        "expires": expires,
    }
