"""The workflows of the scenarios: from the journal that a worker knows to the next commit."""

from __future__ import annotations

from durasleep.model import (
    CancelEntry,
    CommitAction,
    Due,
    Kind,
    Number,
    PromiseId,
    StartChild,
    StartPromise,
    StartTimer,
    State,
    StepResult,
    Transaction,
)
from tests.model.channel_programs import HASTY, TALKING, drive_talking
from tests.model.moves import CANCEL
from tests.model.state import Entry
from tests.model.wishes import Program, View, Wish, fed


def timer(number: int, due: str = "+1") -> StartTimer:
    return StartTimer(Number(str(number)), "", Due(due))


def child(number: int, function: str = "nap", own_id: str = "") -> StartChild:
    return StartChild(Number(str(number)), function, b"", None, None, PromiseId(own_id) if own_id else None)


def transaction(number: int) -> Transaction:
    return Transaction(Number(str(number)), ())


def nap(view: View) -> Wish:
    """One timer."""
    return (
        Wish(CommitAction.RESOLVE, payload=b"1")
        if view.first(1)
        else Wish(CommitAction.SUSPEND, view.missing(timer(1)))
    )


def quick(_: View) -> Wish:
    """A task that ends at once."""
    return Wish(CommitAction.RESOLVE, payload=b"1")


def two_naps(view: View) -> Wish:
    """A timer, a transaction, and a timer again."""
    if not view.first(1):
        return Wish(CommitAction.SUSPEND, view.missing(timer(1)))
    if not view.first(2):
        return Wish(CommitAction.CONTINUE, (transaction(2),))
    return (
        Wish(CommitAction.RESOLVE, payload=b"1")
        if view.first(3)
        else Wish(CommitAction.SUSPEND, view.missing(timer(3)))
    )


def race(view: View) -> Wish:
    """A timer against a child; the loser is canceled; then a transaction. The winner is the result."""
    winner = view.first(1, 2)
    if not winner:
        return Wish(CommitAction.SUSPEND, view.missing(timer(1), child(2)))
    loser = "2" if winner == "1" else "1"
    kind = Kind.CHILD if loser == "2" else Kind.TIMER
    is_open = view.entries[loser].state is State.PENDING
    if not view.first(3):
        cancel = (CancelEntry(Number(loser), kind, ""),) if is_open else ()
        return Wish(CommitAction.CONTINUE, (*cancel, transaction(3)))
    return Wish(CommitAction.RESOLVE, payload=winner.encode())


def impatient(view: View) -> Wish:
    """A timer against an execution with an id of its own, which goes on if it loses."""
    winner = view.first(1, 2)
    if not winner:
        return Wish(CommitAction.SUSPEND, view.missing(timer(1), child(2, "two_naps", own_id="c")))
    if view.first(3):
        return Wish(CommitAction.RESOLVE, payload=winner.encode())
    is_open = view.entries["2"].state is State.PENDING
    return Wish(
        CommitAction.SUSPEND, ((CancelEntry(Number("2"), Kind.CHILD, "two_naps"),) if is_open else ()) + (timer(3),)
    )


def rounds(view: View) -> Wish:
    """A timer more a child that is not waited for; then a new run, with a timer of its own."""
    first = view.base + 1
    if not view.first(first):
        more = () if view.base else (child(first + 1),)
        return Wish(CommitAction.SUSPEND, view.missing(timer(first), *more))
    return Wish(CommitAction.RESOLVE, payload=b"0") if view.base else Wish(CommitAction.CONTINUE_AS_NEW, due="2")


def approval(view: View) -> Wish:
    """A promise somebody settles, or its time is over."""
    ask = StartPromise(Number("1"), "", Due("+1"))
    return Wish(CommitAction.RESOLVE, payload=b"1") if view.first(1) else Wish(CommitAction.SUSPEND, view.missing(ask))


def votes(view: View) -> Wish:
    """Three promises; once the third has settled, which of the others was first."""
    asked = view.missing(*[StartPromise(Number(str(number)), "", None) for number in (1, 2, 3)])
    if asked:
        return Wish(CommitAction.CONTINUE, asked)
    return (
        Wish(CommitAction.RESOLVE, payload=view.first(1, 2).encode()) if view.first(3) else Wish(CommitAction.SUSPEND)
    )


def parent(view: View) -> Wish:
    """Two children at once, one with an id of its own."""
    if view.first(1) and view.first(2):
        return Wish(CommitAction.RESOLVE, payload=view.first(1, 2).encode())
    return Wish(CommitAction.SUSPEND, view.missing(child(1), child(2, own_id="c")))


def three(view: View) -> Wish:
    """Three children at once, two of them for one key."""
    if all(view.first(number) for number in (1, 2, 3)):
        return Wish(CommitAction.RESOLVE, payload=b"1")
    keyed = [
        StartChild(Number(str(n)), "nap", b"", None, None, None, traits=f"\t{k}\t\t\t")
        for n, k in ((1, "a"), (2, "a"), (3, "b"))
    ]
    return Wish(CommitAction.SUSPEND, view.missing(*keyed))


def away(view: View) -> Wish:
    """A child in the other partition."""
    if view.first(1):
        return Wish(CommitAction.RESOLVE, payload=b"1")
    return Wish(CommitAction.SUSPEND, view.missing(child(1, own_id="q")))


def sends_away(view: View) -> Wish:
    """It starts something in the other partition, and does not wait for its end."""
    if view.first(1):
        return Wish(CommitAction.RESOLVE, payload=b"1")
    there = StartChild(Number("1"), "nap", b"", None, None, PromiseId("q"), detached=True)
    return Wish(CommitAction.SUSPEND, view.missing(there))


def impatient_away(view: View) -> Wish:
    """A timer against a child in the other partition, which goes on if it loses."""
    winner = view.first(1, 2)
    if not winner:
        return Wish(CommitAction.SUSPEND, view.missing(timer(1), child(2, own_id="q")))
    is_open = view.entries["2"].state is State.PENDING
    return Wish(
        CommitAction.RESOLVE, (CancelEntry(Number("2"), Kind.CHILD, "nap"),) if is_open else (), payload=winner.encode()
    )


def attempts(view: View) -> Wish:
    """A task that fails once, waits, and does it."""
    if "1" in view.entries:
        return Wish(CommitAction.RESOLVE, payload=b"")
    failed = StepResult(Number("1"), "", State.REJECTED, b"")
    return Wish(CommitAction.RETRY, (failed,), due="+1")


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (
        nap,
        quick,
        two_naps,
        race,
        impatient,
        rounds,
        approval,
        votes,
        parent,
        three,
        away,
        sends_away,
        impatient_away,
        attempts,
    )
}


def drive(
    function: str, known: tuple[tuple[str, Entry], ...], base: int
) -> tuple[Wish, tuple[tuple[str, Entry], ...], str]:
    """The next commit of a program, the journal that it was told of, and the number of the last settlement in it. If it
    was told of a cancel, it ends so.
    """
    order = fed(known)
    if function in TALKING or function in HASTY:
        return drive_talking(function, known, base)
    view = View(known, base)
    wish = Wish(CommitAction.CANCEL) if CANCEL in order else PROGRAMS[function](view)
    return wish, known, order[-1] if order else ""
