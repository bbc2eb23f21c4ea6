"""The mailbox of an execution while a script runs: what is in ``mailbox.lua`` and ``send.lua``."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from durasleep.model import Kind, SendMessage, SettlePromise, StartReceive, State
from durasleep.protocol.keys import LIMIT
from tests.model.limits import Gates
from tests.model.records import Refused
from tests.model.state import Entry, Line, Mailbox, Message, Promise, Taken, Waiter, partition_of

One = TypeVar("One")

DELIVERED, STORED = b"d", b"s"
NOW = "+0"
ASK_AGAIN_MS = 1_000
REASON = {"NOT_FOUND": b"N", "NOT_ALLOWED": b"A", "ENDED": b"E", "MAILBOX_FULL": b"M"}
CODE = {letter.decode(): code for code, letter in REASON.items()}
"""Why nothing was sent or settled, as the payload of the entry."""
OUTGOING = (Kind.SEND, Kind.SETTLE)


class Send(NamedTuple):
    """A message for a mailbox, from a client or from an execution in another partition (``sender``)."""

    id: str
    channel: str
    text: bytes
    call: str = ""
    key: str = ""
    sender: Waiter | None = None
    starts: str = ""
    """The function with which it begins, if there is none under this id."""
    reply: str = ""
    """The id of the promise of an answer, made in the same script, until ``due``."""
    due: str = "+1"
    inbox: str = ""


def receives_in(journal: tuple[tuple[str, Entry], ...]) -> list[tuple[str, Entry]]:
    """The receives that have a message, in the order in which they got it."""
    found = [(n, entry) for n, entry in journal if entry.kind is Kind.RECEIVE and entry.state is State.RESOLVED]
    return sorted(found, key=lambda one: one[1].stamp)


class Channels(Gates):
    """All mailboxes."""

    mailbox_max = LIMIT["mailbox_max"]
    ring_max = LIMIT["ring_max"]
    calls_bytes_max = LIMIT["calls_bytes_max"]

    # -- rules; a test breaks each of them

    def waiting_for(self, promise: Promise, channel: str) -> str:
        """The receive that gets the next message of a channel, "" if none waits for it."""
        return next((number for number, name in promise.receives if name == channel), "")

    def first_of_channel(self, id: str, channel: str) -> Message | None:
        """What a new receive takes at once."""
        return next(iter(dict(self.mailbox(id).unread).get(channel, ())), None)

    def takes_back(self, entry: Entry, *, is_known: bool) -> bool:  # noqa: ARG002 - for a test that breaks it
        """Whether a receive that is canceled gives its message back, also if its worker knows of the message."""
        return entry.kind is Kind.RECEIVE and entry.state is State.RESOLVED

    def as_taken_back(self, entry: Entry) -> Entry:
        """It keeps its stamp: a worker may have named it as the last one that it has seen."""
        return entry._replace(state=State.CANCELED, payload=b"", child_id="")

    def leave_line(self, id: str, number: str) -> None:
        """A receive does not wait any more."""
        receives = self.promises[id].receives
        self.put(id, receives=tuple([one for one in receives if one[0] != number]))

    def unread_of_run(self, promise: Promise) -> list[Entry]:
        """The messages that a new run gets of the old one, in the order in which they are put to the front."""
        unseen = [entry for number, entry in receives_in(promise.journal) if number in promise.unseen]
        return unseen[::-1]

    def word_of(self, item: Send) -> str:
        """What the sender of this very call was told, or "duplicate" if its key is known; "" for a new message."""
        box, promise = self.mail.get(item.id), self.promises.get(item.id)
        if promise and not item.sender and not item.key and item.call in promise.calls:
            return "delivered"
        if box is None:
            return ""
        if item.sender:
            return next((line.word for line in box.lines if line.sender == item.sender), "")
        if promise and promise.is_pending and not promise.has_mailbox:
            return ""  # of one that had its id before
        if not item.key:
            return dict(box.calls).get(item.call, "")
        for channel, key, call, word in box.keys:
            if (channel, key) == (item.channel, item.key):
                return word if call == item.call else "duplicate"
        return ""

    def is_remembered(self, promise: Promise | None) -> bool:  # noqa: ARG002 - for a test that breaks it
        """Whether a mailbox is looked at for a repeated call, whatever has become of its execution."""
        return True

    def lines_told(self, lines: tuple[Line, ...], sender: Waiter) -> tuple[Line, ...]:
        """The sender has heard: a late copy of its question may still come, so its line is kept for a while."""
        return tuple([line._replace(told=self.now) if line.sender == sender else line for line in lines])

    def is_of_use(self, line: Line) -> bool:
        """Whether a copy of its question may still come."""
        return line.told is None or self.now - line.told < LIMIT["mail_line_kept_ms"]

    def notes_refusals(self) -> bool:
        """Whether a sender of another partition that was refused hears the same if its question comes again."""
        return True

    def lines_after_the_end(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        """The answers for senders in other partitions outlive the execution."""
        return lines

    def lines_of_next(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        """They do so even if another one takes its id."""
        return lines

    def memory_after_the_end(self, box: Mailbox) -> Mailbox:
        """Who repeats a call hears the same after the end, too."""
        return box

    # -- taking in

    def mailbox(self, id: str) -> Mailbox:
        return self.mail[id] if self.promises[id].has_mailbox else Mailbox()

    def open_mailbox(self, id: str) -> None:
        """With its first message. One may be there from an execution that had its id before."""
        if not self.promises[id].has_mailbox:
            old = self.mail.get(id, Mailbox())
            self.mail[id] = Mailbox(lines=self.lines_of_next(old.lines))
            self.put(id, has_mailbox=True)

    def put_mailbox(self, id: str, **changes: object) -> None:
        self.mail[id] = self.mail[id]._replace(**changes)  # type: ignore[arg-type]

    def put_unread(self, id: str, channel: str, messages: tuple[Message, ...]) -> None:
        unread = dict(self.mailbox(id).unread)
        unread[channel] = messages
        self.put_mailbox(id, unread=tuple(sorted((name, its) for name, its in unread.items() if its)))

    def taker_of(self, id: str) -> Promise:
        """The execution that takes messages under an id."""
        promise = self.promises.get(id)
        if promise is None:
            raise Refused("NOT_FOUND")
        if promise.kind is not Kind.EXECUTION:
            raise Refused("NOT_ALLOWED")
        if not promise.is_pending or self.is_orphan(id, promise):
            raise Refused("ENDED")
        return promise

    def take_in(self, id: str, channel: str, message: Message) -> bytes:
        """A message comes: the oldest receive of its channel gets it, or else it is stored."""
        promise = self.taker_of(id)
        number = self.waiting_for(promise, channel)
        box = self.mailbox(id)
        unread = dict(box.unread)
        if not number and sum(map(len, unread.values())) >= self.mailbox_max:
            raise Refused("MAILBOX_FULL")
        self.taken.append(Taken(id, channel, message.text))
        if number:
            self._hand_out(id, number, message)
            return DELIVERED
        self.open_mailbox(id)
        self.put_unread(id, channel, (*unread.get(channel, ()), message))
        return STORED

    def _hand_out(self, id: str, number: str, message: Message) -> None:
        entry = self.entry(id, number)
        assert entry
        self.settle_entry(id, number, entry._replace(child_id=message.reply), State.RESOLVED, message.text)

    def put_back(self, id: str, channel: str, message: Message) -> None:
        """To the front: it was the oldest."""
        self.open_mailbox(id)
        self.put_unread(id, channel, (message, *dict(self.mailbox(id).unread).get(channel, ())))

    def serve(self, id: str, channel: str) -> None:
        """Receives that wait get what was given back."""
        while (number := self.waiting_for(self.promises[id], channel)) and (message := self.take(id, channel)):
            self._hand_out(id, number, message)

    def take(self, id: str, channel: str) -> Message | None:
        """The first message of a channel leaves the mailbox."""
        message = self.first_of_channel(id, channel)
        if message:
            self.put_unread(id, channel, dict(self.mailbox(id).unread)[channel][1:])
        return message

    # -- the script

    def send_one(self, item: Send) -> str:
        """Answers "delivered", "stored" or "duplicate"."""
        if item.reply and self.has_asked(item):
            return "stored"
        if item.starts and item.id in self.promises:
            self.begin(item.id, item.starts)  # it must be of this function
        word = self.word_of(item) if self.is_remembered(self.promises.get(item.id)) else ""
        if word in CODE:
            raise Refused(CODE[word])
        if not word:
            if item.starts and item.id not in self.promises:
                self.begin(item.id, item.starts)
            word = self._take_from(item)
        return word

    def _take_from(self, item: Send) -> str:
        try:
            how = self.take_in(item.id, item.channel, Message(item.text, item.reply))
        except Refused as refused:
            if item.sender and self.notes_refusals():
                self._add_line(item.id, item.sender, REASON[refused.code].decode())
            raise
        word = "delivered" if how == DELIVERED else "stored"
        if item.reply:
            self.make_reply(item)
        if not item.sender and not item.key and how == DELIVERED:
            self._note_delivered(item.id, item.call)
            return word
        self.open_mailbox(item.id)
        if item.sender:
            self._add_line(item.id, item.sender, word)
        elif item.key:
            known = (item.channel, item.key, item.call, word)
            self.put_mailbox(item.id, keys=_last((*self.mail[item.id].keys, known), self.ring_max))
        else:
            self.put_mailbox(item.id, calls=_last((*self.mail[item.id].calls, (item.call, word)), self.ring_max))
        return word

    def _note_delivered(self, id: str, call: str) -> None:
        """The execution remembers the call; when it has too many, its mailbox does."""
        calls = (*self.promises[id].calls, call)
        if sum(len(one) + 1 for one in calls) > self.calls_bytes_max:
            self.open_mailbox(id)
            known = (*self.mail[id].calls, *[(one, "delivered") for one in calls])
            self.put_mailbox(id, calls=_last(known, self.ring_max))
            calls = ()
        self.put(id, calls=calls)

    def _add_line(self, id: str, sender: Waiter, word: str) -> None:
        lines = self.mail.setdefault(id, Mailbox()).lines
        if not lines:
            self.set_timer(f"{id}~mail", self.now + LIMIT["mail_told_ms"])
        self.put_mailbox(id, lines=(*lines, Line(sender, word)), expires=False)

    def note_mail_told(self, id: str, sender: Waiter) -> bool:
        """The sender in another partition has heard the answer. Answers whether there is one."""
        box = self.mail.get(id, Mailbox())
        if all(line.sender != sender for line in box.lines):
            return False
        self.put_mailbox(id, lines=self.lines_told(box.lines, sender))
        return True

    def untold_of(self, id: str) -> tuple[Line, ...]:
        """A due timer of a mailbox: the lines to be told again. Those that were told long ago go."""
        lines = tuple([line for line in self.mail.get(id, Mailbox()).lines if self.is_of_use(line)])
        untold = tuple([line for line in lines if line.told is None])
        promise = self.promises.get(id)
        if id in self.mail:
            is_owned = promise is not None and promise.has_mailbox
            self.put_mailbox(id, lines=lines, expires=not lines and not is_owned)
        if lines:
            self.set_timer(f"{id}~mail", self.now + (ASK_AGAIN_MS if untold else LIMIT["mail_line_kept_ms"]))
        else:
            self.unset_timer(f"{id}~mail")
        return untold

    # -- endings and new runs

    def end_mailbox(self, id: str) -> None:
        """What is unread goes; what repeated calls need is kept for a while."""
        promise = self.promises[id]
        self.close_books(id, promise)
        if promise.calls:  # its mailbox remembers them, whatever becomes of it
            self.open_mailbox(id)
            self.put_mailbox(id, calls=(*self.mail[id].calls, *[(call, "delivered") for call in promise.calls]))
        has_mailbox = self.promises[id].has_mailbox
        self.put(id, receives=(), has_mailbox=False, calls=())
        if not has_mailbox:
            return
        box = self.mail[id]
        kept = self.memory_after_the_end(box)._replace(unread=(), lines=self.lines_after_the_end(box.lines))
        self.mail[id] = kept._replace(expires=not kept.lines)

    def pass_on_mail(self, id: str) -> None:
        """A new run reads what the old one has not read."""
        old = self.promises[id]
        back = self.unread_of_run(old)
        self.close_books(id, old, back)
        self.put(id, receives=())
        for entry in back:
            self.put_back(id, entry.name, Message(entry.payload, entry.child_id))

    def close_books(self, id: str, promise: Promise, back: list[Entry] | None = None) -> None:
        """For the laws: the messages that a run has read, and those that nobody will read."""
        for number, entry in receives_in(promise.journal):
            taken = Taken(id, entry.name, entry.payload)
            if number not in promise.unseen:
                self.been_read.append(taken)
            elif back is None:
                self.unread_at_end.append(taken)
        for channel, messages in self.mailbox(id).unread if back is None else ():
            self.unread_at_end += [Taken(id, channel, message.text) for message in messages]

    # -- the ops of a commit

    def start_receive(self, id: str, op: StartReceive) -> None:
        entry = Entry(Kind.RECEIVE, name=op.name)
        message = self.take(id, op.name)
        if message:
            self.journal(id, op.number, entry._replace(child_id=message.reply), State.RESOLVED, message.text)
        elif op.due == NOW:
            self.journal(id, op.number, entry, State.TIMEDOUT)
        else:
            self.put(id, receives=(*self.promises[id].receives, (op.number, op.name)))
            self.put_entry(id, op.number, entry._replace(due=None if op.due is None else self.due_at(op.due)))
            if op.due is not None:
                self.set_timer(f"{id}~{op.number}", self.due_at(op.due))

    def take_all_back(self, id: str, numbers: set[str], *, is_run_end: bool) -> None:
        """The receives that a commit cancels give back the messages that its code was not told of, the newest first, so
        that they stay in order; at the end of a run, so do those that nobody has canceled.
        """
        unseen = self.promises[id].unseen
        if is_run_end:
            self.put(id, receives=())
            numbers = numbers | set(unseen)
        found = [(number, entry) for number in numbers if (entry := self.entry(id, number))]
        back = [(n, entry) for n, entry in found if self.takes_back(entry, is_known=n not in unseen)]
        for number in numbers - {number for number, _ in back}:
            self.leave_line(id, number)
        for number, entry in sorted(back, key=lambda one: -one[1].stamp):
            self.put(id, unseen=tuple([one for one in self.promises[id].unseen if one != number]))
            self.put_entry(id, number, self.as_taken_back(entry))
            self.put_back(id, entry.name, Message(entry.payload, entry.child_id))
        for channel in sorted({entry.name for _, entry in back}):
            self.serve(id, channel)

    def send_out(self, id: str, op: SendMessage) -> None:
        entry = Entry(Kind.SEND, name=op.name, child_id=op.target, payload=op.payload)
        if partition_of(op.target) != partition_of(id):
            self._ask_for(id, op.number, entry)
            return
        try:
            word = self.take_in(op.target, op.name, Message(op.payload))
        except Refused as refused:
            self.journal(id, op.number, entry, State.REJECTED, REASON[refused.code])
        else:
            self.journal(id, op.number, entry, State.RESOLVED, word)

    def settle_out(self, id: str, op: SettlePromise) -> None:
        entry = Entry(Kind.SETTLE, child_id=op.target, payload=op.payload)
        if partition_of(op.target) != partition_of(id):
            self._ask_for(id, op.number, entry)
            return
        try:
            is_by_us, _ = self.settle_one(op.target, op.state, op.payload, is_own=True)
        except Refused as refused:
            self.journal(id, op.number, entry, State.REJECTED, REASON[refused.code])
        else:
            self.journal(id, op.number, entry, State.RESOLVED, b"1" if is_by_us else b"0")

    def _ask_for(self, id: str, number: str, entry: Entry) -> None:
        self.put_entry(id, number, entry)
        self.set_timer(f"{id}~{number}~ask", self.now)

    # -- of the other parts

    def settle_entry(self, id: str, number: str, entry: Entry, state: State, payload: bytes = b"") -> None:
        raise NotImplementedError

    def journal(self, id: str, number: str, entry: Entry, state: State, payload: bytes = b"") -> None:
        raise NotImplementedError

    def settle_one(self, id: str, state: State, payload: bytes, *, is_own: bool = False) -> tuple[bool, State]:
        raise NotImplementedError

    def is_orphan(self, id: str, promise: Promise) -> bool:
        raise NotImplementedError

    def begin(self, id: str, function: str) -> None:
        raise NotImplementedError

    def has_asked(self, item: Send) -> bool:
        raise NotImplementedError

    def make_reply(self, item: Send) -> None:
        raise NotImplementedError


def _last(ring: tuple[One, ...], most: int) -> tuple[One, ...]:
    return ring[len(ring) - min(most, len(ring)) :]
