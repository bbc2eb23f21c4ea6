"""The scenarios with messages to explore."""

from __future__ import annotations

from durasleep.model import Kind
from tests.model.channels import Send
from tests.model.explore import Scenario
from tests.model.moves import Create
from tests.model.scenarios import ONE, TWO, root


def letters(*texts: str, to: str = "p") -> tuple[Send, ...]:
    """What one client sends, one after the other: ``a1`` is a message in channel ``a``."""
    return tuple([Send(to, text[0], text.encode(), call=f"call of {text}") for text in texts])


def mail(
    function: str,
    clients: tuple[tuple[Send, ...], ...],
    hands: tuple[str, ...] = ONE,
    *others: Create,
    **budget: int,
) -> Scenario:
    """One execution of ``function``, and clients that send messages; the names of faults with ``_`` for spaces."""
    return Scenario(
        (root(function), *others) if function else others,
        hands,
        {what.replace("_", " "): n for what, n in budget.items()},
        letters=clients,
    )


TWO_OF_A = (letters("a1", "a2"),)
A_AND_B = (letters("a1"), letters("b1"))
ONE_LETTER = (letters("a1"),)
SAME_KEY = (
    (Send("p", "a", b"a1", "one", "key"),),
    (Send("p", "a", b"a1", "two", "key"), Send("p", "a", b"a2", "three")),
)
ONE_KEY = ((Send("p", "a", b"a1", "one", "key"), Send("p", "a", b"a2", "two", "key")),)
EARLY = (
    (Send("p", "a", b"a1", "one", starts="reads_two"),),
    (Send("p", "a", b"a2", "two", starts="reads_two"),),
)
QUESTION = ((Send("p", "a", b"a1", "one", reply="reply"),),)
LATE_READER = Create("p", function="reads_two", start="+1", deadline="+2")

THREE_LETTERS = (letters("a1", "a2", "b1"),)
AWAY = (letters("a9", to="q"),)
AT_ONCE = Create("q", function="reads_at_once")
BESIDE = Create("c", function="reads_and_asks")
LEAVING = Create("c", function="reads_or_leaves")
NOBODYS = Create("q", Kind.PROMISE, function="", queue="", deadline="+1")


def away(function: str, there: str, **budget: int) -> Scenario:
    """An execution that sends to one of the other partition."""
    return mail(function, (), ONE, Create("q", function=there), **budget)


CHANNELS: dict[str, Scenario] = {
    "messages": mail("reads_two", TWO_OF_A, TWO, lost_reply=1, lost_send=1),
    "messages, and a crash": mail("reads_two", TWO_OF_A, TWO, crash=1, late_send=1),
    "messages, and a pause": mail("reads_two", TWO_OF_A, TWO, pause=1, late_duplicate=1),
    "messages, and a cancel": mail("reads_two", TWO_OF_A, TWO, cancel=1, halt=1),
    "messages, and a forced cancel": mail("reads_or_leaves", TWO_OF_A, force=1, retry=1, lost_send=1),
    "messages, and an id used again": mail("reads_or_leaves", ONE_LETTER, begin_anew=1, late_send=1, release=1),
    "messages, and an id that is free again": mail("reads_or_leaves", ONE_KEY, expiry=1, create_again=1),
    "messages before it begins": mail("", TWO_OF_A, TWO, LATE_READER, defer=1, lost_send=1),
    "messages that begin it": mail("", EARLY, lost_send=1, late_send=1, expiry=1),
    "a key of two senders": mail("reads_two", SAME_KEY, TWO, lost_send=1, late_send=1),
    "a race of receives": mail("reads_either", A_AND_B, TWO, lost_reply=1, lost_send=1),
    "a race of receives, and a crash": mail("reads_either", A_AND_B, TWO, crash=1, late_duplicate=1),
    "a race of receives, and a pause": mail("reads_either", A_AND_B, TWO, pause=1, late_send=1),
    "a race of receives, and a cancel": mail("reads_either", A_AND_B, cancel=1, force=1, release=1),
    "a race of receives, and a failover": mail("reads_either", A_AND_B, failover=1),
    "a race of receives of one channel": mail("reads_first", TWO_OF_A, TWO, late_duplicate=1, crash=1),
    "two receives of one channel, and a timer": mail("reads_in_turn", ONE_LETTER, TWO, late_duplicate=1, crash=1),
    "a race of a receive and a timer": mail("reads_late", ONE_LETTER, TWO, lost_reply=1, wake=1, reschedule=1),
    "a race of a receive and a timer, and a crash": mail("reads_late", ONE_LETTER, TWO, crash=1, late_duplicate=1),
    "a race of a receive and a timer, and a failover": mail("reads_late", ONE_LETTER, failover=1, lost_send=1),
    "a race of a receive and a timer, of two messages": mail("reads_late", TWO_OF_A, pause=1, late_send=1),
    "a timeout": mail("reads_patiently", ONE_LETTER, TWO, lost_reply=1, reschedule=1),
    "a timeout, and an ending": mail("reads_or_leaves", ONE_LETTER, TWO, crash=1, lost_send=1, late_send=1),
    "messages of several runs": mail("reads_in_runs", THREE_LETTERS, lost_reply=1),
    "messages of several runs, and a crash": mail("reads_in_runs", THREE_LETTERS, TWO, crash=1),
    "messages of several runs, and a cancel": mail("reads_in_runs", THREE_LETTERS, cancel=1),
    "messages of several runs, and a failover": mail("reads_in_runs", (letters("a1", "b1"),), failover=1),
    "a question": mail("answers", QUESTION, TWO, lost_send=1, lost_reply=1, force=1),
    "a question, and a failover": mail("answers", QUESTION, failover=1),
    "what one execution sends to another": mail("writes", (), ONE, BESIDE, lost_reply=1, late_duplicate=1),
    "what one execution sends to another that has ended": mail("writes_late", (), ONE, LEAVING, lost_reply=1, crash=1),
    "what one execution sends to another, and a crash": mail("writes", (), ONE, BESIDE, crash=1, cancel=1),
    "a message to another partition": away("writes_away", "reads_or_leaves", lost_mail=1, mail_twice=1),
    "a message to another partition that is read": away("writes_away", "reads_one", mail_twice=1, lost_reply=1),
    "a message to another partition, and a forced cancel": away("writes_away", "reads_or_leaves", force=1),
    "a message to another partition, and a failover": away("writes_away", "quick", failover_of_mail=1),
    "a message to another partition, and an id used again": away("writes_away", "quick", begin_anew=1),
    "a message to another partition that has no room": mail("writes_away", AWAY, ONE, AT_ONCE),
    "messages to another partition, and new runs": away("writes_two_away", "reads_two"),
    "a promise of another partition": away("settles_away", "approval", mail_twice=1, lost_mail=1),
    "a promise of another partition, and a failover": mail("settles_far_away", (), ONE, NOBODYS, failover=1),
}

LARGER_CHANNELS: dict[str, Scenario] = {
    "two races of receives": mail("reads_either", A_AND_B, TWO, late_duplicate=2, crash=1),
    "messages of several runs, a failover and a crash": mail("reads_in_runs", THREE_LETTERS, TWO, failover=1, crash=1),
    "messages of several to another partition, and an id used again": mail(
        "writes_away", AWAY, ONE, Create("q", function="quick"), begin_anew=1
    ),
    "a message to another partition that is read, and a failover": away("writes_away", "reads_at_once", failover=1),
    "a message to another partition, and two failovers": away("writes_away", "quick", failover=2),
    "messages to another partition, new runs, and lost ones": away("writes_two_away", "reads_two", lost_mail=2),
    "a promise of another partition that ends, and a failover": away("settles_away", "approval", failover=1),
}
