"""What a promise becomes in a namespace with another number of partitions, from the fields of its hash.

Inside one partition an execution that waits stands in a line of what it waits for. Between two partitions its entry
asks again and again, see ``foreign``. A pair that a move parts changes from the first way to the second. A pair that a
move brings together keeps the second, which works inside one partition, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from durasleep.errors import CorruptData, NewerVersion
from durasleep.model import Kind, Place, State, owner_of
from durasleep.protocol.command import KIND_OF, PLACE_OF, STATE_OF, check_code, to_text
from durasleep.protocol.keys import DEFAULT, KIND, PLACE, STATE, F
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.moving import Fields, Page, Timers, origin_of

_HEAD = re.compile(rb"([a-z])([a-z])\t(\d*)\t(\d*)\t([^\t\n]*)\t([^\t\n]*)\n")
_AT_ONCE_MS = 0
_PENDING, _CHILD, _DELAYED = STATE[State.PENDING].encode(), KIND[Kind.CHILD].encode(), PLACE[Place.DELAYED].encode()
_MANY = b"+"
"""The field of the waiters of a promise, if these are in a set."""


def _field(name: str) -> bytes:
    return F[name].encode()


_STATE, _KIND, _PLACE, _ENTRY = _field("state"), _field("kind"), _field("place"), _field("entry")
_INCARNATION, _WAITERS, _REASON = _field("incarnation"), _field("waiters"), _field("reason")
_DUE, _DEADLINE, _CURSOR = _field("due"), _field("deadline"), _field("cursor")
_EXTRAS = _field("extras")


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal entry, as far as a move reads it."""

    number: bytes
    kind: bytes
    is_pending: bool
    due: bytes
    child_id: str
    """For a call of an execution with an id of its own: that id."""
    body: bytes
    """While it is pending: what it asks of another partition, or nothing."""
    head: bytes

    @property
    def is_asking(self) -> bool:
        """Whether it asks another partition."""
        return self.is_pending and bool(self.child_id and self.body)

    @property
    def is_in_line(self) -> bool:
        """Whether it stands in a line of what it waits for."""
        return self.is_pending and self.kind == _CHILD and bool(self.child_id) and not self.body


class Leaving:
    """A promise as it was taken out."""

    def __init__(self, id: str, fields: Fields, page: Page) -> None:
        """``fields`` are those of all its pages; the rest is as on any ``page``."""
        self.id = id
        self.known = dict(fields)
        self.ttl_ms = page.ttl_ms
        self.halted_ms = page.halted_ms
        self.is_closing = page.is_closing
        self.waiters: list[bytes] = []
        """Who waits for it; if they are in a set, its members are added."""
        self.view: Fields = []
        """What it publishes, if it has a view."""
        self.mail: Fields = []
        """The fields of its mailbox, if it has one."""
        if not self.has_set:
            self.waiters = [line for line in self.known.get(_WAITERS, b"").split(b"\n") if line]

    @property
    def has_set(self) -> bool:
        """Whether its waiters are in a set."""
        return self.known.get(_WAITERS) == _MANY

    @property
    def has_view(self) -> bool:
        """Whether it publishes something."""
        return b"v" in self.known.get(_EXTRAS, b"")

    @property
    def has_mail(self) -> bool:
        """Whether it has a mailbox."""
        return b"m" in self.known.get(_EXTRAS, b"")

    @property
    def origin(self) -> bytes:
        """See ``origin_of``."""
        return origin_of(self.known.get(_INCARNATION), self.known.get(_field("idempotency_key")))

    @property
    def is_pending(self) -> bool:
        return _STATE not in self.known

    @property
    def function(self) -> str:
        return to_text(self.known.get(_field("func")))

    @property
    def has_begun(self) -> bool:
        """Whether code of it may have run, or it has messages: another execution can then not take its place."""
        has_entries = any(name[:1].isdigit() for name in self.known)
        return has_entries or bool(self.mail) or not self.is_pending or self.known.get(_field("epoch"), b"1") != b"1"

    def entries(self) -> Iterator[Entry]:
        """Its journal; CorruptData for an entry that is not one of ours."""
        for name, raw in self.known.items():
            if not name[:1].isdigit():
                continue
            head = _HEAD.match(raw)
            if head is None:
                raise CorruptData(f"journal entry {self.id}~{to_text(name)} is not one of ours")
            kind, state, _, due, _, child_id = head.groups()
            check_code(KIND_OF, kind, f"the kind of journal entry {self.id}~{to_text(name)}")
            check_code(STATE_OF, state, f"the state of journal entry {self.id}~{to_text(name)}")
            is_pending = state == _PENDING
            body = raw[head.end() :] if is_pending else b""
            yield Entry(name, kind, is_pending, due, to_text(child_id), body, head.group())

    def check(self, there: Keyspaces) -> None:
        """CorruptData if it is no promise of ours, NewerVersion if only a newer version can move it, InvalidId if it
        cannot be there.
        """
        there.of(self.id)
        if not self.known.get(_INCARNATION, b"").isdigit():
            raise CorruptData(f"promise:{self.id} is not a promise of ours")
        for name, codes in ((_STATE, STATE_OF), (_KIND, KIND_OF), (_PLACE, PLACE_OF)):
            check_code(codes, self.known.get(name), f"the {name.decode()} of {self.id}")
        for waiter in self.waiters:
            if waiter[:1] not in b"ipsx":
                raise NewerVersion(f"{self.id} is waited for in a way that only a newer version of durasleep knows")
        for _ in self.entries() if self.is_pending else ():
            pass


@dataclass(frozen=True, slots=True)
class Arriving:
    """The same as it is adopted."""

    id: str
    fields: Fields
    timers: Timers
    waiters: list[bytes]
    """Members of the set of its waiters, if there are many."""
    view: Fields
    """What it publishes."""
    mail: Fields
    """Its mailbox."""


def parted(leaving: Leaving, there: Keyspaces) -> list[str]:
    """What it stands in a line of, and what will be in another partition."""
    if not leaving.is_pending:
        return []
    here = there.of(leaving.id)
    return [one.child_id for one in leaving.entries() if one.is_in_line and there.of(one.child_id) is not here]


def arrive(leaving: Leaving, there: Keyspaces, missing: set[str]) -> Arriving:
    """What it becomes. Of those of ``parted``, the ``missing`` do not exist: who waits for them is left as it is, for a
    person to cancel.
    """
    known = {name: value for name, value in leaving.known.items() if name not in (_ENTRY, _WAITERS, _CURSOR)}
    lacks_view = leaving.has_view and not leaving.view  # only watched, and its watchers stay behind
    for letter, is_gone in ((b"v", lacks_view), (b"m", leaving.has_mail and not leaving.mail)):
        if is_gone:
            known[_EXTRAS] = known[_EXTRAS].replace(letter, b"")
    if known.get(_EXTRAS) == b"":
        del known[_EXTRAS]
    timers = [*_timers_of(leaving)]
    if leaving.is_pending:
        for entry in leaving.entries():
            timers += _arrive_entry(leaving, entry, there, missing, known)
    waiters = _lines(leaving, there)
    if not leaving.is_pending and any(line[:1] == b"x" for line in waiters):
        timers.append((f"{leaving.id}~tell", _AT_ONCE_MS))
    if waiters:
        known[_WAITERS] = _MANY if leaving.has_set else b"".join(line + b"\n" for line in waiters)
    mail = [(_mail_line(name, there), value) for name, value in leaving.mail]
    if any(name[:1] == b"x" for name, _ in mail):
        timers.append((f"{leaving.id}~mail", _AT_ONCE_MS))
    return Arriving(leaving.id, list(known.items()), timers, waiters if leaving.has_set else [], leaving.view, mail)


def _mail_line(name: bytes, there: Keyspaces) -> bytes:
    """The name of a field of a mailbox: a sender in another partition has its number there, see ``waiter_of``."""
    if name[:1] != b"x":
        return name
    _, _, who = name.partition(b" ")
    return b"x%d %s" % (there.of(to_text(who.partition(b" ")[2])).partition, who)


def _timers_of(leaving: Leaving) -> Iterator[tuple[str, int]]:
    known = leaving.known
    if not leaving.is_pending:
        return
    if known.get(_PLACE) == _DELAYED and _DUE in known:
        yield f"{leaving.id}~{'retry' if _REASON in known else 'start'}", int(known[_DUE])
    if _DEADLINE in known:
        yield f"{leaving.id}~timeout", int(known[_DEADLINE])


def _arrive_entry(
    leaving: Leaving, entry: Entry, there: Keyspaces, missing: set[str], known: dict[bytes, bytes]
) -> Iterator[tuple[str, int]]:
    """Change an entry that waits for something in another partition; its timers."""
    member = f"{leaving.id}~{to_text(entry.number)}"
    if entry.is_pending and entry.due:
        yield member, int(entry.due)
    if not entry.is_asking and not entry.is_in_line:
        return
    partition = there.of(entry.child_id)
    if entry.is_asking:
        rest = entry.body.lstrip(b"0123456789")
    elif partition is there.of(leaving.id) or entry.child_id in missing:
        return
    else:
        rest = f"\t{DEFAULT['queue']}\t\t\t\n".encode()  # it exists: it is only attached to
    known[entry.number] = entry.head + b"%d" % partition.partition + rest
    yield f"{member}~ask", _AT_ONCE_MS


def _lines(leaving: Leaving, there: Keyspaces) -> list[bytes]:
    """Who waits for it now. Inboxes stay behind: their clients have to open the new namespace, and wait again there."""
    lines: list[bytes] = []
    for line in leaving.waiters:
        if line[:1] == b"i":
            continue
        if line[:1] == b"s":  # inside one partition a schedule stands in the line by its name
            partition = there.of(to_text(line[1:]))
            is_here = partition is there.of(leaving.id)
            lines.append(line if is_here else b"x%d 0 %s~cron" % (partition.partition, line[1:]))
            continue
        who = line[1:] if line[:1] == b"p" else line.partition(b" ")[2]
        owner = owner_of(to_text(who.partition(b" ")[2]))
        if owner is None:
            continue
        partition = there.of(owner[0])
        is_here = line[:1] == b"p" and partition is there.of(leaving.id)
        lines.append(line if is_here else b"x%d " % partition.partition + who)
    return lines
