"""Each rule of messages is needed: without it the named law is violated."""

from __future__ import annotations

import pytest

from durasleep.model import Kind, SendMessage, State
from tests.model import channel_laws
from tests.model.channel_scenarios import CHANNELS, LARGER_CHANNELS, away
from tests.model.channels import Send
from tests.model.explore import explore
from tests.model.moves import Commit, Committed, Scripts
from tests.model.state import Entry, Line, Mailbox, Message, Promise, Waiter, partition_of
from tests.model.test_broken_rules import Broken
from tests.model.test_every_state import NO_ROOM, Narrow

pytestmark = pytest.mark.long


class WithReceivesThatKeepTheirMessages(Scripts):
    """A receive that is taken back has had its message."""

    def takes_back(self, entry: Entry, *, is_known: bool) -> bool:
        return False


class WithMessagesThatOnlyTheServerGivesBack(Scripts):
    """A receive that is taken back gives its message back, unless its worker has loaded it."""

    def takes_back(self, entry: Entry, *, is_known: bool) -> bool:
        return super().takes_back(entry, is_known=is_known) and not is_known


class WithMessagesGivenBackBySettling(Scripts):
    """A receive gives its message back and stays settled: its code is told of it when it is run again."""

    def as_taken_back(self, entry: Entry) -> Entry:
        return entry


class WithoutAStampWhenTakenBack(Scripts):
    """A receive that is taken back is as one that never had a message."""

    def as_taken_back(self, entry: Entry) -> Entry:
        return super().as_taken_back(entry)._replace(stamp=0)


class WithMessagesGivenBackToTheEnd(Scripts):
    """What is given back comes behind all others."""

    def put_back(self, id: str, channel: str, message: Message) -> None:
        self.open_mailbox(id)
        self.put_unread(id, channel, (*dict(self.mailbox(id).unread).get(channel, ()), message))


class WithMessagesGivenBackToNobody(Scripts):
    """What is given back is stored, although another receive waits for it."""

    def serve(self, id: str, channel: str) -> None:
        return


class WithRunsThatForgetTheirMessages(Scripts):
    """A new run does not get what the old one has not been told of."""

    def unread_of_run(self, promise: Promise) -> list[Entry]:
        return []


class WithRunsThatGetTheOldestFirst(Scripts):
    """What the old run has not been told of is put to the front of the mailbox, the oldest first."""

    def unread_of_run(self, promise: Promise) -> list[Entry]:
        return super().unread_of_run(promise)[::-1]


class WithLinesThatStay(Scripts):
    """The receives of the old run are still in line."""

    def pass_on_mail(self, id: str) -> None:
        receives = self.promises[id].receives
        super().pass_on_mail(id)
        self.put(id, receives=receives)


class WithoutALookAtReceives(Scripts):
    """A message is always stored."""

    def waiting_for(self, promise: Promise, channel: str) -> str:
        return ""


class WithTheYoungestReceive(Scripts):
    """The receive that has waited least gets the message."""

    def waiting_for(self, promise: Promise, channel: str) -> str:
        return next((number for number, name in reversed(promise.receives) if name == channel), "")


class WithoutALookAtTheMailbox(Scripts):
    """A receive always waits for the next message."""

    def first_of_channel(self, id: str, channel: str) -> Message | None:
        return None


class WithTheNewestMessage(Scripts):
    """A receive takes the message that came last."""

    def first_of_channel(self, id: str, channel: str) -> Message | None:
        unread = dict(self.mailbox(id).unread).get(channel, ())
        if unread:
            self.put_unread(id, channel, (unread[-1], *unread[:-1]))
        return super().first_of_channel(id, channel)


class WithReceivesThatStayInLine(Scripts):
    """A receive that has timed out, or was taken back, is still in line."""

    def leave_line(self, id: str, number: str) -> None:
        entry = self.entry(id, number)
        if entry is None or entry.due is None:
            super().leave_line(id, number)


class WithoutNumbersOfReceives(Scripts):
    """A commit that is repeated takes another message."""

    def is_repeated(self, promise: Promise, number: str) -> bool:
        entry = dict(promise.journal).get(number)
        return entry is not None and entry.kind is not Kind.RECEIVE


class WithoutNumbersOfMessages(Scripts):
    """A commit that is repeated sends once more."""

    def is_repeated(self, promise: Promise, number: str) -> bool:
        entry = dict(promise.journal).get(number)
        return entry is not None and entry.kind is not Kind.SEND

    def send_out(self, id: str, op: SendMessage) -> None:
        if self.entry(id, op.number):
            self.take_in(op.target, op.name, Message(op.payload))
        else:
            super().send_out(id, op)


class WithoutARing(Scripts):
    """A mailbox remembers neither keys nor calls."""

    ring_max = 0
    calls_bytes_max = 0


class WithARingForKeysOnly(Scripts):
    """Who sends without a key may be heard twice."""

    def word_of(self, item: Send) -> str:
        return super().word_of(item) if item.key or item.sender else ""


class WithKeysOfOneSender(Scripts):
    """A key is that of a call: another sender with the same key is heard, too."""

    def word_of(self, item: Send) -> str:
        word = super().word_of(item)
        return "" if word == "duplicate" else word


class WithMailboxesThatGoAtTheEnd(Scripts):
    """With its execution a mailbox forgets the calls that it has answered."""

    def memory_after_the_end(self, box: Mailbox) -> Mailbox:
        return Mailbox(lines=box.lines)


class WithMailboxesForTheLivingOnly(Scripts):
    """Nobody looks at the mailbox of an execution that has ended."""

    def is_remembered(self, promise: Promise | None) -> bool:
        return promise is not None and promise.is_pending


class WithMailboxesForGood(Scripts):
    """A mailbox outlives its execution."""

    def end_mailbox(self, id: str) -> None:
        super().end_mailbox(id)
        if id in self.mail:
            self.put_mailbox(id, expires=False)


class WithSendersForgottenAtOnce(Scripts):
    """A sender of another partition is forgotten when its message has come, whether it has heard of that or not."""

    def send_one(self, item: Send) -> str:
        word = super().send_one(item)
        if item.sender:
            self.put_mailbox(item.id, lines=())
            self.unset_timer(f"{item.id}~mail")
        return word


class WithSendersForgottenWhenTold(Scripts):
    """A sender of another partition is forgotten as soon as it has heard: a copy of its question may still come."""

    def lines_told(self, lines: tuple[Line, ...], sender: Waiter) -> tuple[Line, ...]:
        return tuple([line for line in lines if line.sender != sender])


class WithSendersForgottenAtTheEnd(Scripts):
    """With its execution a mailbox forgets the senders of the other partition."""

    def lines_after_the_end(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        return ()


class WithSendersForgottenByTheNext(Scripts):
    """Another execution under the id knows no senders of the other partition."""

    def lines_of_next(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        return ()


class WithRefusalsForgotten(Narrow):
    """A sender of another partition that was refused may still be heard, when its question comes again."""

    def notes_refusals(self) -> bool:
        return False


class WithMailboxesOfOthers(Scripts):
    """An execution takes over the mailbox of one that had its id before."""

    def open_mailbox(self, id: str) -> None:
        if id in self.mail:
            self.put(id, has_mailbox=True)
        super().open_mailbox(id)


class WithMessagesBesideTheCommit(Scripts):
    """A worker sends the messages itself, and then commits that it has."""

    def _commit(self, consumer: str, item: Commit) -> Committed:
        for op in item.ops:
            if isinstance(op, SendMessage) and self.is_taking(op.target):
                self.take_in(op.target, op.name, Message(op.payload))
        return super()._commit(consumer, item)

    def is_taking(self, id: str) -> bool:
        promise = self.promises.get(id)
        return promise is not None and promise.is_pending

    def send_out(self, id: str, op: SendMessage) -> None:
        state = State.RESOLVED if self.is_taking(op.target) else State.REJECTED
        self.journal(id, op.number, Entry(Kind.SEND, name=op.name, child_id=op.target), state)


class WithQuestionsOfNobody(Scripts):
    """The promise of an answer is made first, and then the question may be refused."""

    def send_one(self, item: Send) -> str:
        if item.reply and item.reply not in self.promises:
            self.make_reply(item)
            item = item._replace(reply="")
        return super().send_one(item)


class WithSettlementsOfOthers(Scripts):
    """Who settles a promise that others have settled believes that it was first."""

    def settle_one(self, id: str, state: State, payload: bytes, *, is_own: bool = False) -> tuple[bool, State]:
        return True, super().settle_one(id, state, payload, is_own=is_own)[1]


class WithCommitsThatFail(Scripts):
    """A message that its target does not take refuses the whole commit."""

    def send_out(self, id: str, op: SendMessage) -> None:
        if partition_of(op.target) == partition_of(id):
            self.taker_of(op.target)
        super().send_out(id, op)


ONE_PLACE = channel_laws.law_02_a_message_is_in_exactly_one_place.__name__
KEPT = channel_laws.law_02_who_is_canceled_keeps_no_message.__name__
ORDER = channel_laws.law_05_messages_keep_their_order.__name__
LINE = channel_laws.law_05_the_line_of_receives_is_kept.__name__
BESIDE = channel_laws.law_01_no_message_lies_beside_who_waits_for_it.__name__
IN_LINE = channel_laws.law_02_receives_that_wait_are_in_line.__name__
OWNED = channel_laws.law_10_a_mailbox_has_an_owner_or_an_end.__name__
ONCE = channel_laws.law_07_a_message_is_taken_once.__name__
TRUTH = channel_laws.law_07_who_is_told_of_a_message_is_told_the_truth.__name__
SENT = channel_laws.law_07_what_an_execution_sends_is_sent.__name__
ASKED = channel_laws.law_07_a_question_is_asked_with_its_promise.__name__
SETTLED = channel_laws.law_07_who_has_settled_a_promise_knows_it.__name__
NOT_FENCED = channel_laws.law_04_who_holds_an_execution_is_not_fenced.__name__

BROKEN = (
    Broken(WithReceivesThatKeepTheirMessages, "a race of receives", KEPT),
    Broken(WithMessagesThatOnlyTheServerGivesBack, "a race of receives", KEPT),
    Broken(WithMessagesGivenBackBySettling, "a race of receives", ONE_PLACE),
    Broken(WithoutAStampWhenTakenBack, "a race of receives", NOT_FENCED),
    Broken(WithMessagesGivenBackToTheEnd, "a race of a receive and a timer, of two messages", ORDER),
    Broken(WithMessagesGivenBackToNobody, "two receives of one channel, and a timer", BESIDE),
    Broken(WithRunsThatForgetTheirMessages, "messages of several runs", ONE_PLACE),
    Broken(WithRunsThatGetTheOldestFirst, "messages of several runs", ORDER),
    Broken(WithLinesThatStay, "messages of several runs", IN_LINE),
    Broken(WithoutALookAtReceives, "messages", BESIDE),
    Broken(WithTheYoungestReceive, "messages of several runs", LINE),
    Broken(WithoutALookAtTheMailbox, "messages", BESIDE),
    Broken(WithTheNewestMessage, "messages", ORDER),
    Broken(WithReceivesThatStayInLine, "a timeout", IN_LINE),
    Broken(WithoutNumbersOfReceives, "messages", ONE_PLACE),
    Broken(WithoutNumbersOfMessages, "what one execution sends to another", ONCE),
    Broken(WithoutARing, "messages", ONCE),
    Broken(WithoutARing, "a key of two senders", ONCE),
    Broken(WithARingForKeysOnly, "messages, and a crash", ONCE),
    Broken(WithKeysOfOneSender, "a key of two senders", ONCE),
    Broken(WithMailboxesThatGoAtTheEnd, "a timeout, and an ending", TRUTH),
    Broken(WithMailboxesForTheLivingOnly, "a timeout, and an ending", TRUTH),
    Broken(WithMailboxesOfOthers, "messages, and an id that is free again", OWNED),
    Broken(WithMailboxesForGood, "messages, and a cancel", OWNED),
    Broken(WithSendersForgottenAtOnce, "a message to another partition", ONCE),
    Broken(WithSendersForgottenWhenTold, "a message to another partition that is read", ONCE),
    Broken(WithSendersForgottenAtTheEnd, "a message to another partition", TRUTH),
    Broken(WithSendersForgottenByTheNext, "messages of several to another partition, and an id used again", ONCE),
    Broken(WithRefusalsForgotten, NO_ROOM, TRUTH),
    Broken(WithQuestionsOfNobody, "a question", ASKED),
    Broken(WithSettlementsOfOthers, "what one execution sends to another, and a crash", SETTLED),
    Broken(WithSettlementsOfOthers, "a promise of another partition", SETTLED),
    Broken(WithMessagesBesideTheCommit, "what one execution sends to another", ONCE),
    Broken(WithCommitsThatFail, "what one execution sends to another that has ended", NOT_FENCED),
)


@pytest.mark.parametrize("broken", BROKEN, ids=[f"{broken.rule.__name__}, {broken.scenario}" for broken in BROKEN])
def test_without_its_rule_the_law_falls(broken: Broken) -> None:
    report = explore((CHANNELS | LARGER_CHANNELS)[broken.scenario], broken.rule)
    assert report.law == broken.law, str(report)
    assert report.trace


def test_who_ends_before_its_message_has_come_never_knows() -> None:
    report = explore(away("leaves_at_once", "quick"))
    assert report.law == SENT, str(report)
