"""The workflows of the scenarios with messages.

As in a worker, the code is told of one settlement after the other, and of none any more once it has ended.
"""

from __future__ import annotations

from durasleep.model import (
    CancelEntry,
    CommitAction,
    Due,
    Kind,
    Number,
    PromiseId,
    SendMessage,
    SettlePromise,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
)
from tests.model.channels import NOW, OUTGOING
from tests.model.moves import CANCEL
from tests.model.state import Entry, partition_of
from tests.model.wishes import Program, View, Wish, fed

ENDINGS = (
    CommitAction.RESOLVE,
    CommitAction.REJECT,
    CommitAction.CANCEL,
    CommitAction.CONTINUE_AS_NEW,
)


SETTLED_BY_P = b"by p"


def receive(number: int, channel: str = "a", due: str | None = None) -> StartReceive:
    return StartReceive(Number(str(number)), channel, None if due is None else Due(due))


def send(number: int, target: str, channel: str = "a") -> SendMessage:
    """Its text names the call, so that a law can find it."""
    return SendMessage(Number(str(number)), channel, PromiseId(target), f"p~{number}".encode())


def settle(number: int, target: str) -> SettlePromise:
    return SettlePromise(Number(str(number)), PromiseId(target), State.RESOLVED, SETTLED_BY_P)


def _end() -> Wish:
    return Wish(CommitAction.RESOLVE, payload=b"1")


def reads_two(view: View) -> Wish:
    """One message after the other, of one channel."""
    if view.first(2):
        return _end()
    return Wish(CommitAction.SUSPEND, view.missing(receive(2) if view.first(1) else receive(1)))


def reads_either(view: View) -> Wish:
    """A race of two receives: the loser is canceled. Then the other channel is read again."""
    winner = view.first(1, 2)
    if not winner:
        return Wish(CommitAction.SUSPEND, view.missing(receive(1, "a"), receive(2, "b")))
    loser, channel = ("2", "b") if winner == "1" else ("1", "a")
    if view.first(3):
        return _end()
    is_open = view.entries[loser].state is not State.CANCELED
    cancel = (CancelEntry(Number(loser), Kind.RECEIVE, channel),) if is_open else ()
    return Wish(CommitAction.SUSPEND, (*cancel, *view.missing(receive(3, channel))))


def reads_first(view: View) -> Wish:
    """A race of two receives of one channel. The loser is canceled, and what is left is read."""
    winner = view.first(1, 2)
    if not winner:
        return Wish(CommitAction.SUSPEND, view.missing(receive(1), receive(2)))
    loser = "2" if winner == "1" else "1"
    if not view.first(3):
        is_open = view.entries[loser].state is not State.CANCELED
        cancel = (CancelEntry(Number(loser), Kind.RECEIVE, "a"),) if is_open else ()
        return Wish(CommitAction.SUSPEND, (*cancel, *view.missing(receive(3))))
    return _end()


def reads_late(view: View) -> Wish:
    """A receive against a timer; if the timer wins, the message is read by a later receive."""
    if view.first(1, 2) == "1" or view.first(3):
        return _end()
    if not view.first(2):
        return Wish(CommitAction.SUSPEND, view.missing(receive(1), StartTimer(Number("2"), "", Due("+1"))))
    is_open = view.entries["1"].state is not State.CANCELED
    cancel = (CancelEntry(Number("1"), Kind.RECEIVE, "a"),) if is_open else ()
    return Wish(CommitAction.SUSPEND, (*cancel, *view.missing(receive(3))))


def reads_in_turn(view: View) -> Wish:
    """Two receives of one channel. After a while the first one gives up, and what it has had is for the second one."""
    if view.first(1, 3) == "1" or view.first(2):
        return _end()
    asked = (receive(1), receive(2), StartTimer(Number("3"), "", Due("+1")))
    if not view.first(3):
        return Wish(CommitAction.SUSPEND, view.missing(*asked))
    is_open = view.entries["1"].state is not State.CANCELED
    return Wish(CommitAction.SUSPEND, (CancelEntry(Number("1"), Kind.RECEIVE, "a"),) if is_open else ())


def reads_patiently(view: View) -> Wish:
    """A receive with a timeout, and after it one without."""
    if not view.first(1):
        return Wish(CommitAction.SUSPEND, view.missing(receive(1, due="+1")))
    is_timedout = view.entries["1"].state is State.TIMEDOUT
    return Wish(CommitAction.SUSPEND, view.missing(receive(2))) if is_timedout and not view.first(2) else _end()


def reads_or_leaves(view: View) -> Wish:
    """A receive with a timeout; after it, it ends."""
    return _end() if view.first(1) else Wish(CommitAction.SUSPEND, view.missing(receive(1, due="+1")))


def reads_at_once(view: View) -> Wish:
    """A message, if there is one."""
    return _end() if view.first(1) else Wish(CommitAction.CONTINUE, view.missing(receive(1, due=NOW)))


def reads_one(view: View) -> Wish:
    return _end() if view.first(1) else Wish(CommitAction.SUSPEND, view.missing(receive(1)))


def reads_in_runs(view: View) -> Wish:
    """A run with two receives of one channel, until a timer ends it. The next one waits for a word in another channel
    and then reads all that is there.
    """
    if not view.base:
        if view.first(3):
            return Wish(CommitAction.CONTINUE_AS_NEW, due="3")
        asked = (receive(1), receive(2), StartTimer(Number("3"), "", Due("+1")))
        return Wish(CommitAction.SUSPEND, view.missing(*asked))
    if not view.first(4):
        return Wish(CommitAction.SUSPEND, view.missing(receive(4, "b")))
    number = 5
    while view.first(number):
        if view.entries[str(number)].state is State.TIMEDOUT:
            return _end()
        number += 1
    return Wish(CommitAction.CONTINUE, view.missing(receive(number, due=NOW)))


def answers(view: View) -> Wish:
    """A message, and the answer to who has sent it, if an answer is wanted."""
    if not view.first(1):
        return Wish(CommitAction.SUSPEND, view.missing(receive(1)))
    reply = view.entries["1"].child_id
    return Wish(CommitAction.SUSPEND, view.missing(settle(2, reply))) if reply and not view.first(2) else _end()


def writes(view: View) -> Wish:
    """A message to another execution, and one to itself, which it reads; then it settles a promise of its own, and one
    of the other execution, and sends a last message as it ends.
    """
    if not view.first(4):
        asked = (send(1, "c"), send(2, "p"), StartPromise(Number("3"), "", None), receive(4))
        return Wish(CommitAction.CONTINUE, view.missing(*asked))
    if not (view.first(5) and view.first(6)):
        return Wish(CommitAction.CONTINUE, view.missing(settle(5, "p~3"), settle(6, "c~2")))
    return Wish(CommitAction.RESOLVE, (send(7, "c", "b"),), payload=b"1")


def writes_late(view: View) -> Wish:
    """A message to another execution that may have ended, and one to nobody."""
    if not view.first(1):
        return Wish(CommitAction.SUSPEND, view.missing(StartTimer(Number("1"), "", Due("+1"))))
    if not (view.first(2) and view.first(3) and view.first(4)):
        return Wish(CommitAction.CONTINUE, view.missing(send(2, "c"), settle(3, "c~1"), send(4, "k")))
    return _end()


def reads_and_asks(view: View) -> Wish:
    """A message and a promise, both for a while only."""
    if view.first(1) and view.first(2):
        return _end()
    asked = (receive(1, due="+1"), StartPromise(Number("2"), "", Due("+1")))
    return Wish(CommitAction.SUSPEND, view.missing(*asked))


def writes_away(view: View) -> Wish:
    """A message to the other partition; it ends when that is there."""
    return Wish(CommitAction.RESOLVE, view.missing(send(1, "q")), payload=b"1")


def writes_two_away(view: View) -> Wish:
    """Two messages to the other partition, one after the other, and a new run."""
    if view.base:
        return _end()
    if not view.first(1):
        return Wish(CommitAction.SUSPEND, view.missing(send(1, "q")))
    return Wish(CommitAction.CONTINUE_AS_NEW, view.missing(send(2, "q")), due="2")


def settles_away(view: View) -> Wish:
    """A promise of the other partition."""
    return Wish(CommitAction.RESOLVE, view.missing(settle(1, "q~1")), payload=b"1")


def settles_far_away(view: View) -> Wish:
    """A promise of nobody, in the other partition."""
    return Wish(CommitAction.RESOLVE, view.missing(settle(1, "q")), payload=b"1")


TALKING: dict[str, Program] = {
    program.__name__: program
    for program in (
        reads_two,
        reads_either,
        reads_first,
        reads_late,
        reads_in_turn,
        reads_patiently,
        reads_or_leaves,
        reads_at_once,
        reads_one,
        reads_in_runs,
        answers,
        writes,
        writes_late,
        reads_and_asks,
        writes_away,
        writes_two_away,
        settles_away,
        settles_far_away,
    )
}
HASTY: dict[str, Program] = {"leaves_at_once": writes_away}
"""They end before what they have sent was heard of, which the runtime does not let a workflow do."""
MANY_READERS = ("reads_first", "reads_in_turn")
"""Those that read one channel at several places at once: what is given back comes late."""


def drive_talking(
    function: str, known: tuple[tuple[str, Entry], ...], base: int
) -> tuple[Wish, tuple[tuple[str, Entry], ...], str]:
    """See ``drive``."""
    program = TALKING.get(function) or HASTY[function]
    order, wish = fed(known), Wish(CommitAction.CONTINUE)
    told, journal = list[str](), known
    for count in range(len(order) + 1):
        told = order[:count]
        journal = tuple([(number, _as_told(number, entry, told)) for number, entry in known])
        wish = Wish(CommitAction.CANCEL) if CANCEL in told else program(View(journal, base))
        if wish.outcome in ENDINGS:
            break
    wish = wish if function in HASTY else _after_its_letters(wish, known)
    return wish, journal, told[-1] if told else ""


def _as_told(number: str, entry: Entry, told: list[str]) -> Entry:
    if entry.kind is Kind.RECEIVE and entry.state is State.CANCELED:
        return entry._replace(stamp=0)  # its code is never told
    return entry if number in told or not entry.stamp else entry._replace(state=State.PENDING, stamp=0)


def _after_its_letters(wish: Wish, known: tuple[tuple[str, Entry], ...]) -> Wish:
    """An ending waits until what it has sent to another partition was heard there."""
    if wish.outcome not in ENDINGS:
        return wish
    is_waiting = any(entry.kind in OUTGOING and entry.state is State.PENDING for _, entry in known)
    far = [op for op in wish.ops if isinstance(op, SendMessage | SettlePromise) and partition_of(op.target) != HERE]
    return Wish(CommitAction.SUSPEND, wish.ops) if is_waiting or far else wish


HERE = partition_of("p")
