"""The laws of messages: of every state, and of every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from durasleep.model import CancelEntry, CommitAction, Kind, State
from tests.model.channel_programs import MANY_READERS, SETTLED_BY_P
from tests.model.channels import OUTGOING, receives_in
from tests.model.moves import Committed, Refused
from tests.model.state import Entry, Promise, Redis, Taken, owner_of
from tests.model.workers import Service, Step


def _there(redis: Redis) -> Iterator[Taken]:
    """Every message that was taken in, where it is now: what was read first, and then what is unread."""
    yield from redis.been_read
    for id, promise in redis.promises:
        if promise.is_pending:
            for _, entry in receives_in(promise.journal):
                yield Taken(id, entry.name, entry.payload)
    for id, box in redis.mail:
        for channel, messages in box.unread:
            for message in messages:
                yield Taken(id, channel, message.text)


def law_02_a_message_is_in_exactly_one_place(redis: Redis) -> str:
    """Unread, read, or unread at the end."""
    there, taken = Counter([*_there(redis), *redis.unread_at_end]), Counter(redis.taken)
    lost, doubled = taken - there, there - taken
    return f"nobody has {sorted(lost)}" if lost else f"twice there is {sorted(doubled)}" if doubled else ""


def law_05_messages_keep_their_order(redis: Redis) -> str:
    """In each channel, if only one receive at a time reads it."""
    left = Counter(redis.unread_at_end)
    wanted: dict[tuple[str, str], list[bytes]] = {}
    for one in redis.taken:
        if left[one]:
            left[one] -= 1
        else:
            wanted.setdefault((one.id, one.channel), []).append(one.text)
    found: dict[tuple[str, str], list[bytes]] = {}
    for one in _there(redis):
        found.setdefault((one.id, one.channel), []).append(one.text)
    for (id, channel), texts in found.items():
        promise = redis.promise(id)
        is_one_reader = promise is None or promise.function not in MANY_READERS
        if is_one_reader and texts != wanted.get((id, channel)):
            return f"{id} got {wanted.get((id, channel))} in {channel}, and reads {texts}"
    return ""


def law_01_no_message_lies_beside_who_waits_for_it(redis: Redis) -> str:
    for id, box in redis.mail:
        promise = redis.promise(id)
        waiting = {entry.name for _, entry in promise.journal if _waits(entry)} if promise else set[str]()
        for channel, messages in box.unread:
            if channel in waiting:
                return f"{id} waits for a message of {channel}, and has {messages}"
    return ""


def _waits(entry: Entry) -> bool:
    return entry.kind is Kind.RECEIVE and entry.state is State.PENDING


def law_02_receives_that_wait_are_in_line(redis: Redis) -> str:
    for id, promise in redis.promises:
        waiting = [(number, entry.name) for number, entry in promise.journal if _waits(entry)]
        if promise.is_pending and sorted(promise.receives) != sorted(waiting):
            return f"{id} waits with {waiting}, in line are {promise.receives}"
        if not promise.is_pending and promise.receives:
            return f"{id} has ended, in line are {promise.receives}"
    return ""


def law_10_a_mailbox_has_an_owner_or_an_end(redis: Redis) -> str:
    timers = dict(redis.timers)
    for id, box in redis.mail:
        promise = redis.promise(id)
        is_owned = promise is not None and promise.has_mailbox
        if box.expires == (is_owned or bool(box.lines)):
            return f"{'somebody' if is_owned else 'nobody'} has the mailbox of {id}: {box}"
        if box.unread and not is_owned:
            return f"{id} is not pending, and {box.unread} is unread"
        if box.lines and f"{id}~mail" not in timers:
            return f"{box.lines} of {id} are for ever"
    owners = [id for id, promise in redis.promises if promise.has_mailbox]
    wrong = [id for id in owners if id not in dict(redis.mail)]
    return f"{wrong} have no mailbox" if wrong else ""


OF_STATES = (
    law_02_a_message_is_in_exactly_one_place,
    law_05_messages_keep_their_order,
    law_01_no_message_lies_beside_who_waits_for_it,
    law_02_receives_that_wait_are_in_line,
    law_10_a_mailbox_has_an_owner_or_an_end,
)


def _has_failed_over(at: Service) -> bool:
    """From then on Redis may have forgotten what others know."""
    return 0 in (dict(at.left).get("failover"), dict(at.left).get("failover of mail"))


def _has_begun_anew(at: Service) -> bool:
    """An execution remembers no calls of the one that had its id before."""
    return any(dict(at.left).get(what) == 0 for what in ("retry", "begin anew", "create again"))


def law_07_a_message_is_taken_once(at: Service, step: Step) -> str:
    """However often it is sent."""
    before, after = at.redis.taken, step.after.redis.taken
    if len(after) <= len(before) or step.is_outside or _has_failed_over(step.after):
        return ""
    is_anew = _has_begun_anew(step.after)
    # The calls of clients are remembered by an incarnation, those of executions until they have heard.
    twice = [one for one, count in Counter(after).items() if count > 1 and not (is_anew and b"~" not in one.text)]
    return f"{twice} was taken in twice" if twice else ""


def law_07_who_is_told_of_a_message_is_told_the_truth(at: Service, step: Step) -> str:
    """A sender that hears of an error can rely on it: its message was not taken."""
    texts = {one.text for one in step.after.redis.taken}
    if _has_failed_over(step.after):
        return ""
    for letter, answer in step.posts if not _has_begun_anew(step.after) else ():
        if answer != "duplicate" and isinstance(answer, Refused) == (letter.text in texts):
            return f"{letter.text!r} was {'' if letter.text in texts else 'not '}taken, and its sender hears {answer}"
    for id, _, after in _runs(at, step):
        for number, entry in after.journal:
            text = f"{id}~{number}".encode()
            is_told = entry.kind is Kind.SEND and entry.state in (State.RESOLVED, State.REJECTED)
            is_told = is_told and not _has_begun_anew(step.after)  # it may be the sender that has
            if is_told and (entry.state is State.REJECTED) == (text in texts):
                return f"{text!r} was {'' if text in texts else 'not '}taken, and its sender hears {entry.state}"
    return ""


def law_07_a_question_is_asked_with_its_promise(at: Service, step: Step) -> str:
    """Both are made, or neither is."""
    texts = {one.text for one in step.after.redis.taken}
    for letter, _ in step.posts if not _has_failed_over(step.after) else ():
        if letter.reply and step.after.redis.promise(letter.reply) and letter.text not in texts:
            return f"{letter.reply} waits for the answer to {letter.text!r}, which was not taken"
    return ""


def law_07_who_has_settled_a_promise_knows_it(at: Service, step: Step) -> str:
    """And nobody else believes it."""
    for id, before, after in _runs(at, step) if not _has_failed_over(step.after) else ():
        known = dict(before.journal)
        for number, entry in after.journal:
            is_new = entry.kind is Kind.SETTLE and entry.state is State.RESOLVED and known.get(number) != entry
            settled = _settled(step.after.redis, entry.child_id) if is_new else None
            if settled is not None and (entry.payload == b"1") != (settled == (State.RESOLVED, SETTLED_BY_P)):
                return f"{id}~{number} hears {entry.payload!r}, {entry.child_id} is {settled}"
    return ""


def _settled(redis: Redis, id: str) -> tuple[State, bytes] | None:
    """The outcome of a promise, if it is there."""
    promise, (owner_id, number) = redis.promise(id), owner_of(id) or (id, "")
    owner = redis.promise(owner_id)
    entry = dict(owner.journal).get(number) if owner else None
    if promise:
        return promise.state, promise.value
    return (entry.state, entry.payload) if entry else None


def law_07_what_an_execution_sends_is_sent(at: Service, step: Step) -> str:
    """Its code does not end while something is still to be sent or settled."""
    for _, call, answer in step.commits:
        promise = at.redis.promise(call.lease.id)
        is_ending = call.outcome not in (CommitAction.CONTINUE, CommitAction.SUSPEND)
        if promise is None or not is_ending or not isinstance(answer, Committed):
            continue
        ended = step.after.redis.promise(call.lease.id)
        left = dict(ended.journal) if ended and not ended.is_pending else dict(promise.journal)
        for number, entry in left.items():
            if entry.kind in OUTGOING and entry.state is State.PENDING:
                return f"{call.lease.id} ends, and {number} is still to be sent"
    return ""


def law_02_who_is_canceled_keeps_no_message(at: Service, step: Step) -> str:
    """Nobody would read it."""
    for _, call, answer in step.commits:
        promise = step.after.redis.promise(call.lease.id)
        canceled = [op.number for op in call.ops if isinstance(op, CancelEntry) and op.kind is Kind.RECEIVE]
        if promise is None or not isinstance(answer, Committed) or answer.word == "dropped":
            continue
        kept = [number for number, _ in receives_in(promise.journal) if number in canceled]
        if kept:
            return f"{call.lease.id} has canceled {kept}, which has a message"
    return ""


def law_05_the_line_of_receives_is_kept(at: Service, step: Step) -> str:
    """Who comes waits behind the others, and the first of a channel is served first."""
    for id, before, after in _runs(at, step):
        stay = tuple([one for one in before.receives if one in after.receives])
        if after.receives[: len(stay)] != stay:
            return f"in line of {id} were {before.receives}, and are {after.receives}"
        served = dict(receives_in(after.journal))
        for place, (number, channel) in enumerate(before.receives):
            waiting = [one for one in before.receives[:place] if one in stay and one[1] == channel]
            if number in served and waiting:
                return f"{number} of {id} has a message, and stood behind others in {before.receives}"
    return ""


def law_04_who_holds_an_execution_is_not_fenced(at: Service, step: Step) -> str:
    """Unless the server has forgotten something."""
    if any(what.startswith("failover") for what, _ in at.left):
        return ""
    for consumer, call, answer in step.commits:
        promise = at.redis.promise(call.lease.id)
        held = [(entry.entry, entry.epoch) for entry in at.redis.stream if entry.holder == consumer]
        lease = (call.lease.entry, call.lease.epoch)
        is_holder = promise is not None and (promise.entry, promise.epoch) == lease and lease in held
        ended = step.after.redis.promise(call.lease.id)
        if isinstance(answer, Refused) and is_holder and ended is not None and ended.is_pending:
            return f"{consumer} holds {call.lease.id}, and its commit was refused: {answer.code}"
    return ""


def _runs(at: Service, step: Step) -> Iterator[tuple[str, Promise, Promise]]:
    """The executions before and after a step of a script."""
    after = dict(step.after.redis.promises) if not step.is_outside else {}
    for id, before in at.redis.promises:
        now = after.get(id)
        if now is not None and now is not before and now.incarnation == before.incarnation:
            yield id, before, now


OF_STEPS = (
    law_07_a_message_is_taken_once,
    law_07_who_is_told_of_a_message_is_told_the_truth,
    law_07_a_question_is_asked_with_its_promise,
    law_07_who_has_settled_a_promise_knows_it,
    law_07_what_an_execution_sends_is_sent,
    law_02_who_is_canceled_keeps_no_message,
    law_05_the_line_of_receives_is_kept,
    law_04_who_holds_an_execution_is_not_fenced,
)


def left(redis: Redis) -> Iterator[str]:
    """Mailboxes that are there for good, if all executions have ended."""
    for id, box in redis.mail:
        if not box.expires:
            yield f"the mailbox of {id} has {box}"
