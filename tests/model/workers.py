"""A whole service: Redis, workers and the messages between them, and every step that one of them may take next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from durasleep.model import (
    CancelEntry,
    CommitAction,
    Kind,
    Op,
    Place,
    SendMessage,
    SettlePromise,
    StartChild,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
)
from tests.model import state
from tests.model.channels import OUTGOING, REASON, Send
from tests.model.gate import Limit, Numbers
from tests.model.moves import KEEP, Ask, Commit, Committed, Create, Hear, Lease, Note, Refused, Scripts, Told
from tests.model.programs import drive
from tests.model.state import Declared, Entry, Ranks, Redis, StreamEntry, Taken, Waiter, partition_of


class Doing(StrEnum):
    NOTHING = "nothing"
    LOADING = "loading"
    SENDING = "sending"
    DEAD = "dead"


class Hand(NamedTuple):
    """One slot of a worker: its execution, the journal as the worker knows it, and a commit on its way."""

    consumer: str
    doing: Doing = Doing.NOTHING
    lease: Lease | None = None
    function: str = ""
    base: int = 0
    known: tuple[tuple[str, Entry], ...] = ()
    asked: str = ""
    """The last number of its previous commit."""
    call: Commit | None = None
    is_paused: bool = False

    @property
    def is_alive(self) -> bool:
        return self.doing is not Doing.DEAD and not self.is_paused


Mail = Ask | Hear | Told


class Service(NamedTuple):
    """``late`` are calls that arrive a second time; ``replica`` is what a failover would leave."""

    redis: Redis
    hands: tuple[Hand, ...]
    left: tuple[tuple[str, int], ...]
    """How many faults, and actions of people, of each kind may still happen."""
    late: tuple[tuple[str, Commit], ...] = ()
    replica: Redis | None = None
    replicated: int = 0
    """The partition that the replica has."""
    mail: tuple[Mail, ...] = ()
    """What relays carry from one partition to the other; it may come at any time, and in any order."""
    letters: tuple[tuple[Send, ...], ...] = ()
    """What clients are to send, each of them one after the other."""
    late_letters: tuple[Send, ...] = ()


class Step(NamedTuple):
    """An event, to be shown and judged by the laws. A step is fair if it happens when nothing else does."""

    label: str
    after: Service
    is_fair: bool = True
    commits: tuple[tuple[str, Commit, Committed | Refused], ...] = ()
    notes: tuple[tuple[str, Lease, str | Refused], ...] = ()
    is_firing: bool = False
    canceling: str = ""
    """The execution that was told of its cancel."""
    beats: str = ""
    """The worker that has sent a heartbeat."""
    posts: tuple[tuple[Send, str | Refused], ...] = ()
    """Messages of clients, and the answers."""
    is_outside: bool = False
    """Not a script: a failover, an expiry, a change of the clock."""


class Transitions:
    """The steps of one scenario, under given rules."""

    def __init__(
        self,
        scripts: type[Scripts],
        roots: tuple[Create, ...],
        *,
        is_batched: bool,
        limits: tuple[tuple[str, Limit], ...] = (),
        declared: tuple[tuple[str, Declared], ...] = (),
        changes: tuple[Numbers, ...] = (),
        letters: tuple[tuple[Send, ...], ...] = (),
    ) -> None:
        self._letters = letters
        self._scripts = scripts
        self._roots = roots
        self._is_batched = is_batched
        self._first = Redis(now=1, limits=limits, declared=declared)
        self._changes = changes

    def begin(self, hands: tuple[str, ...], budget: dict[str, int]) -> Service:
        redis, _ = self._scripts(self._first).create(self._roots)
        for consumer in sorted(set(hands)) if "offer" in budget else ():
            redis, _ = self._scripts(redis).heartbeat(consumer, "workers", [], functions=consumer)
        slots, left = tuple([Hand(consumer) for consumer in hands]), tuple(sorted(budget.items()))
        return Service(redis, slots, left, letters=self._letters)

    def steps(self, at: Service) -> Iterator[Step]:
        """Everything that may happen next."""
        ready = at._replace(redis=at.redis._replace(now=at.redis.now + 1))  # no two scripts in one millisecond
        for index, hand in enumerate(at.hands):
            if hand.is_alive:
                yield from self._works(ready, index, hand)
                yield from self._fails(ready, index, hand)
            elif hand.is_paused:
                yield Step(f"{hand.consumer} goes on", _with(ready, index, hand._replace(is_paused=False)))
        yield from self._batch(ready)
        yield from self._recovers(ready)
        yield from self._time(ready)
        yield from self._relay(ready)
        yield from self._people(ready)
        yield from self._clients(ready)
        yield from self._beats(ready)
        yield from self._faults(ready)

    # -- a worker

    def _works(self, at: Service, index: int, hand: Hand) -> Iterator[Step]:
        match hand.doing:
            case Doing.NOTHING:
                free = _next_entry(at.redis)
                if free:
                    redis, lease = self._scripts(at.redis).read(hand.consumer, free.entry)
                    taken = Hand(hand.consumer, Doing.LOADING, lease)
                    label = f"{hand.consumer} reads {lease.id} of epoch {lease.epoch}"
                    yield Step(label, _with(at._replace(redis=redis), index, taken))
                    if told := free.snapshot:
                        begun = _asking(taken._replace(function=told.function, base=told.base), told.journal)
                        yield Step(f"{label}, and begins", _with(at._replace(redis=redis), index, begun))
            case Doing.LOADING:
                yield self._load(at, index, hand)
            case Doing.SENDING:
                yield from self._send(at, index, hand)
                yield from self._note(at, hand)
            case Doing.DEAD:
                return

    def _load(self, at: Service, index: int, hand: Hand) -> Step:
        lease = _lease(hand)
        promise = at.redis.promise(lease.id)
        if promise is None or (promise.entry, promise.epoch) != (lease.entry, lease.epoch):
            redis, _ = self._scripts(at.redis).commit(hand.consumer, [Commit(lease, CommitAction.DROP)])
            dropped = _with(at._replace(redis=redis), index, Hand(hand.consumer))
            return Step(f"{hand.consumer} drops {lease.id} of epoch {lease.epoch}", dropped)
        loaded = hand._replace(function=promise.function, base=promise.base)
        label = f"{hand.consumer} loads {lease.id} of epoch {lease.epoch}"
        return Step(label, _with(at, index, _asking(loaded, promise.journal)))

    def _send(self, at: Service, index: int, hand: Hand) -> Iterator[Step]:
        call = _call(hand)
        after, answer = self._deliver(at, hand.consumer, call)
        heard = _with(after, index, _take_answer(hand, answer))
        label = f"{hand.consumer} commits {_told(call)}: {_said(answer)}"
        commits = ((hand.consumer, call, answer),)
        yield Step(label, heard, commits=commits)
        if (spent := _spend(after, "lost reply")) is not None:
            yield Step(f"{label}, ANSWER LOST", spent, is_fair=False, commits=commits)
        if (spent := _spend(heard, "late duplicate")) is not None:
            late = tuple(sorted((*spent.late, (hand.consumer, call)), key=repr))
            yield Step(f"{label}, SENT TWICE", spent._replace(late=late), is_fair=False, commits=commits)

    def _note(self, at: Service, hand: Hand) -> Iterator[Step]:
        """A step keeps a checkpoint while it runs."""
        spent, call = _spend(at, "note"), _call(hand)
        if spent is None or not call.ops:
            return
        number = call.ops[0].number
        redis, [answer] = self._scripts(at.redis).note(hand.consumer, [Note(call.lease, number, number, b"half")])
        said = answer.code if isinstance(answer, Refused) else answer
        label = f"{hand.consumer} keeps a checkpoint of {call.lease.id}~{number}: {said}"
        notes = ((hand.consumer, call.lease, answer),)
        yield Step(label, spent._replace(redis=redis), is_fair=False, notes=notes)

    def _deliver(self, at: Service, consumer: str, call: Commit) -> tuple[Service, Committed | Refused]:
        redis, [answer] = self._scripts(at.redis).commit(consumer, [call])
        return at._replace(redis=redis), answer

    def _batch(self, at: Service) -> Iterator[Step]:
        """One worker holds two executions: their commits are sent together."""
        for first, one in enumerate(at.hands):
            for second, other in enumerate(at.hands[:first]):
                if one.consumer == other.consumer and one.call and other.call and one.is_alive and other.is_alive:
                    calls = [one.call, other.call]
                    redis, answers = self._scripts(at.redis).commit(one.consumer, calls)
                    after = _with(at._replace(redis=redis), first, _take_answer(one, answers[0]))
                    after = _with(after, second, _take_answer(other, answers[1]))
                    said = ", ".join(
                        f"{_told(call)}: {_said(answer)}" for call, answer in zip(calls, answers, strict=True)
                    )
                    commits = tuple([(one.consumer, call, answer) for call, answer in zip(calls, answers, strict=True)])
                    yield Step(f"{one.consumer} commits together {said}", after, commits=commits)

    def _fails(self, at: Service, index: int, hand: Hand) -> Iterator[Step]:
        if hand.doing is Doing.NOTHING:
            free = _next_entry(at.redis)
            if free and (spent := _spend(at, "lost read")) is not None:
                redis, lease = self._scripts(at.redis).read(hand.consumer, free.entry)
                yield Step(f"{hand.consumer} reads {lease.id}, ANSWER LOST", spent._replace(redis=redis), is_fair=False)
            return
        if (spent := _spend(at, "pause")) is not None:
            paused = _with(spent, index, hand._replace(is_paused=True))
            yield Step(f"{hand.consumer} IS PAUSED", paused, is_fair=False)
        if (spent := _spend(at, "crash")) is not None:
            dead = tuple([Hand(one.consumer, Doing.DEAD) if one.consumer == hand.consumer else one for one in at.hands])
            yield Step(f"{hand.consumer} DIES", spent._replace(hands=dead), is_fair=False)
        if (spent := _spend(at, "release")) is not None:
            lease = _lease(hand)
            redis, _ = self._scripts(at.redis).reclaim(
                hand.consumer, lease.queue, release="some", entries=[lease.entry]
            )
            given = _with(spent._replace(redis=redis), index, Hand(hand.consumer))
            yield Step(f"{hand.consumer} gives {lease.id} back", given, is_fair=False)
        ways = (("defer", ""), ("offer", hand.consumer), ("offer", KEEP)) if hand.doing is Doing.LOADING else ()
        for what, functions in ways:
            if (spent := _spend(at, what)) is None:
                continue
            call = Commit(_lease(hand), CommitAction.DEFER, due="+1", functions=functions)
            after, answer = self._deliver(spent, hand.consumer, call)
            why = "has no room for" if functions == KEEP else "does not know"
            label = f"{hand.consumer} {why} {call.lease.id}, and defers it: {_said(answer)}"
            is_kept = isinstance(answer, Committed) and answer.word == "kept"
            deferred = after if is_kept else _with(after, index, Hand(hand.consumer))
            yield Step(label, deferred, is_fair=False, commits=((hand.consumer, call, answer),))

    def _recovers(self, at: Service) -> Iterator[Step]:
        """How living workers handle dead ones, and entries that are theirs without their knowledge."""
        holders = {entry.holder for entry in at.redis.stream if entry.holder}
        for consumer in sorted({hand.consumer for hand in at.hands}):
            hands = [hand for hand in at.hands if hand.consumer == consumer]
            if consumer in holders and not all(hand.is_alive for hand in hands):
                for queue in sorted({entry.queue for entry in at.redis.stream if entry.holder == consumer}):
                    beat = dict(at.redis.beats).get(consumer)
                    redis, told = self._scripts(at.redis).reclaim(consumer, queue, beat=beat)
                    yield Step(f"the work of {consumer} is given to others: {told.word}", at._replace(redis=redis))
            elif consumer not in holders and all(hand.doing is Doing.DEAD for hand in hands):
                fresh = tuple([Hand(one.consumer) if one in hands else one for one in at.hands])
                yield Step(f"{consumer} is started again", at._replace(hands=fresh))
            named = {hand.lease.entry for hand in hands if hand.lease}
            for entry in at.redis.stream:
                if entry.holder == consumer and entry.entry not in named and all(hand.is_alive for hand in hands):
                    redis, _ = self._scripts(at.redis).reclaim(
                        consumer, entry.queue, release="some", entries=[entry.entry]
                    )
                    yield Step(f"{consumer} gives back {entry.id}, of which it never heard", at._replace(redis=redis))
                    yield from self._hears(at, consumer, Lease(entry.id, entry.queue, entry.entry, entry.epoch))

    def _hears(self, at: Service, consumer: str, lease: Lease) -> Iterator[Step]:
        """A worker learns of a lease that another one has passed to it."""
        for index, hand in enumerate(at.hands) if "offer" in dict(at.left) else ():
            if hand.consumer == consumer and hand.doing is Doing.NOTHING:
                taken = Hand(consumer, Doing.LOADING, lease)
                yield Step(f"{consumer} hears that {lease.id} is its own now", _with(at, index, taken))

    # -- time

    def _time(self, at: Service) -> Iterator[Step]:
        redis = at.redis
        if redis.timers:
            dues = sorted([due for _, due in redis.timers])
            first = redis._replace(now=max(redis.now, dues[0]))
            yield self._fire(at, first, 1)
            if self._is_batched and len(dues) > 1:
                yield self._fire(at, redis._replace(now=max(redis.now, dues[-1])), 64)
        elif redis.closing:
            yield self._fire(at, redis, 1)

    def _fire(self, at: Service, redis: Redis, limit: int) -> Step:
        due = sorted([(due, member) for member, due in redis.timers if due <= redis.now])[:limit]
        after, fired = self._scripts(redis).fire(limit)
        mail = tuple([one for one in at.mail if not (isinstance(one, Ask) and _is_too_old(redis, after, one))])
        sent = _send_mail(at._replace(redis=after, mail=mail), *fired.asks, *fired.tells)
        return Step(f"fire {[member for _, member in due]}", sent, is_firing=True)

    # -- the other partition

    def _relay(self, at: Service) -> Iterator[Step]:
        """Whoever fires carries what it finds to the other partition, and the answers back."""
        for mail in at.mail:
            without = at._replace(mail=tuple([other for other in at.mail if other is not mail]))
            label = f"{mail} comes"
            yield Step(label, self._take_mail(without, mail))
            if (spent := _spend(at, "mail twice")) is not None:
                yield Step(f"{label}, AND WILL COME AGAIN", self._take_mail(spent, mail), is_fair=False)
            if (spent := _spend(without, "lost mail")) is not None:
                yield Step(f"{mail} IS LOST", spent, is_fair=False)

    def _take_mail(self, at: Service, mail: Mail) -> Service:
        scripts = self._scripts(at.redis)
        match mail:
            case Ask() if mail.kind in OUTGOING:
                redis, heard = self._ask_out(scripts, mail)
                return _send_mail(at._replace(redis=redis), heard)
            case Ask(entry, incarnation, child_id, function, is_detached):
                waiter = None if is_detached else Waiter(entry, incarnation, is_foreign=True)
                key = f"{incarnation} {entry}"
                asked = Create(child_id, function=function, idempotency_key=key, waiter=waiter)
                redis, [answer] = scripts.create([asked])
                is_other = isinstance(answer, Refused)
                state, value = (State.REJECTED, b"") if is_other else (answer.state, answer.value)
                heard = Hear(entry, incarnation, child_id, state, value, is_refused=is_other)
                return _send_mail(at._replace(redis=redis), heard)
            case Hear(entry, incarnation, child_id):
                redis, _ = scripts.hear([mail])
                waiter = Waiter(entry, incarnation, is_foreign=True)
                told = (Told(child_id, waiter),) if mail.is_told else ()
                return _send_mail(at._replace(redis=redis), *told)
            case Told():
                return at._replace(redis=scripts.told([mail]))

    def _ask_out(self, scripts: Scripts, ask: Ask) -> tuple[Redis, Hear]:
        """A message, or a settlement, for the other partition."""
        is_message = ask.kind is Kind.SEND
        sender = Waiter(ask.entry, ask.incarnation, is_foreign=True)
        if is_message:
            redis, [word] = scripts.send([Send(ask.child_id, ask.function, ask.body, sender=sender)])
            said = word if isinstance(word, Refused) else word[:1].encode()
        else:
            redis, [answer] = scripts.settle([(ask.child_id, State.RESOLVED, ask.body)])
            said = answer if isinstance(answer, Refused) else b"1" if answer[0] else b"0"
        heard = Hear(ask.entry, ask.incarnation, ask.child_id, State.RESOLVED)
        if isinstance(said, Refused):
            return redis, heard._replace(state=State.REJECTED, value=REASON[said.code], is_refused=True)
        return redis, heard._replace(value=said, is_told=is_message)

    # -- clients that send messages

    def _clients(self, at: Service) -> Iterator[Step]:
        """A client that hears nothing repeats its call; one that is refused for now tries it again."""
        for index, queue in enumerate(at.letters):
            if not queue:
                continue
            letter = queue[0]
            sent, said, posts = self._post(at, letter)
            is_done = said != "MAILBOX_FULL"
            rest = (*at.letters[:index], queue[1:], *at.letters[index + 1 :]) if is_done else at.letters
            heard = sent._replace(letters=rest)
            label = f"a client sends {_shown(letter)}: {said}"
            yield Step(label, heard, posts=posts)
            if (spent := _spend(sent, "lost send")) is not None:
                yield Step(f"{label}, ANSWER LOST", spent, is_fair=False)
            if is_done and (spent := _spend(heard, "late send")) is not None:
                late = tuple(sorted((*spent.late_letters, letter), key=repr))
                yield Step(f"{label}, SENT TWICE", spent._replace(late_letters=late), is_fair=False, posts=posts)
        for letter in at.late_letters:
            sent, said, _ = self._post(at, letter)
            late = tuple([other for other in at.late_letters if other is not letter])
            label = f"THE SECOND COPY of {_shown(letter)} arrives: {said}"
            yield Step(label, sent._replace(late_letters=late), is_fair=False)

    def _post(self, at: Service, letter: Send) -> tuple[Service, str, tuple[tuple[Send, str | Refused], ...]]:
        redis, [answer] = self._scripts(at.redis).send([letter])
        said = answer.code if isinstance(answer, Refused) else answer
        return at._replace(redis=redis), said, ((letter, answer),)

    # -- membership

    def _beats(self, at: Service) -> Iterator[Step]:
        """Workers send heartbeats, and those that stop are removed after a while."""
        alive = {hand.consumer for hand in at.hands if hand.is_alive}
        for consumer in sorted(alive):
            if (spent := _spend(at, "beat")) is not None:
                held = [hand.lease for hand in at.hands if hand.consumer == consumer and hand.lease]
                redis, _ = self._scripts(at.redis).heartbeat(consumer, "workers", held)
                yield Step(f"{consumer} beats", spent._replace(redis=redis), is_fair=False, beats=consumer)
        for consumer, _ in at.redis.presence:
            if consumer not in alive:
                redis = self._scripts(at.redis).fade(consumer)
                yield Step(f"{consumer} was not heard of for long", at._replace(redis=redis), is_outside=True)

    # -- people

    def _people(self, at: Service) -> Iterator[Step]:
        for id, promise in at.redis.promises:
            if not promise.is_pending:
                if "~" not in id and (spent := _spend(at, "retry")) is not None:
                    yield self._control(spent, "retry", id)._replace(is_fair=False)
                continue
            if promise.place is Place.HALTED:
                yield self._control(at, "resume", id)
            for action in ("cancel", "force", "halt"):
                if "~" not in id and (spent := _spend(at, action)) is not None:
                    yield self._control(spent, action, id)._replace(is_fair=False)
            asked = [number for number, entry in promise.journal if _is_asked(entry)]
            for number in asked:
                yield self._settle(at, f"{id}~{number}")
        yield from self._controls(at)
        yield from self._limits(at)
        yield from self._pauses(at)
        yield from self._calls_again(at)
        for create in self._roots:
            if (spent := _spend(at, "create again")) is not None and at.redis.promise(create.id) is None:
                redis, _ = self._scripts(at.redis).create([create])
                yield Step(f"create {create.id} again", spent._replace(redis=redis), is_fair=False)

    def _pauses(self, at: Service) -> Iterator[Step]:
        """A group that is paused, and goes on some time."""
        spent = at if at.redis.is_paused else _spend(at, "pause group")
        if spent is not None:
            redis = self._scripts(at.redis).pause(is_paused=not at.redis.is_paused)
            label = "the group goes on" if at.redis.is_paused else "THE GROUP IS PAUSED"
            yield Step(label, spent._replace(redis=redis), is_fair=at.redis.is_paused)

    def _calls_again(self, at: Service) -> Iterator[Step]:
        """A call that puts the start off, or that begins anew what has ended."""
        for create in self._roots:
            found = at.redis.promise(create.id)
            what, mode = ("debounce", "d5") if create.start else ("begin anew", "s")
            if found is None or (spent := _spend(at, what)) is None:
                continue
            again = create._replace(mode=mode, idempotency_key=f"another {dict(at.left)[what]}")
            redis, [answer] = self._scripts(at.redis).create([again])
            said = answer.code if isinstance(answer, Refused) else answer.disposition
            yield Step(f"call {create.id} again: {said}", spent._replace(redis=redis), is_fair=False)

    def _limits(self, at: Service) -> Iterator[Step]:
        """Limits that are paused, resumed and changed."""
        for name, limit in at.redis.limits:
            if limit.is_paused:
                yield self._change_limit(at, "resume", name)
            elif (spent := _spend(at, "pause limit")) is not None:
                yield self._change_limit(spent, "pause", name)._replace(is_fair=False)
            if limit.is_by_hand and (spent := _spend(at, "reset limit")) is not None:
                yield self._change_limit(spent, "reset", name)._replace(is_fair=False)
            for numbers in self._changes:
                if numbers != limit.numbers and (spent := _spend(at, "set limit")) is not None:
                    yield self._change_limit(spent, "set", name, numbers)._replace(is_fair=False)

    def _change_limit(self, at: Service, action: str, name: str, numbers: Numbers | None = None) -> Step:
        redis, [word] = self._scripts(at.redis).change_limits([(action, name, numbers)])
        return Step(f"{action} limit {name} {numbers or ''}: {word}", at._replace(redis=redis))

    def _controls(self, at: Service) -> Iterator[Step]:
        """Timers and delays, woken and moved while they run."""
        for member, _ in at.redis.timers:
            id = member.removesuffix("~start").removesuffix("~retry").removesuffix("~timeout")
            if (spent := _spend(at, "wake")) is not None and not member.endswith("~timeout"):
                yield self._control(spent, "wake", id)._replace(is_fair=False)
            for due in ("+1", "=1"):
                if (spent := _spend(at, "reschedule")) is not None:
                    yield self._control(spent, "reschedule", id, due)._replace(is_fair=False)

    def _control(self, at: Service, action: str, id: str, due: str = "") -> Step:
        redis, [answer] = self._scripts(at.redis).control([(action, id, due)])
        said = answer.code if isinstance(answer, Refused) else answer[0]
        label = f"{action} {id} {due}".rstrip()
        return Step(f"{label}: {said}", at._replace(redis=redis), canceling=id if said == "canceling" else "")

    def _settle(self, at: Service, id: str) -> Step:
        redis, _ = self._scripts(at.redis).settle([(id, State.RESOLVED, b"")])
        return Step(f"settle {id}", at._replace(redis=redis))

    # -- other faults

    def _faults(self, at: Service) -> Iterator[Step]:
        for one in at.late:
            consumer, call = one
            after, answer = self._deliver(at, consumer, call)
            late = tuple([other for other in at.late if other is not one])
            label = f"THE SECOND COPY of {consumer}'s commit {_told(call)} arrives: {_said(answer)}"
            yield Step(label, after._replace(late=late), is_fair=False, commits=((consumer, call, answer),))
        for id, promise in at.redis.promises:
            is_asked = any(isinstance(mail, Ask) and mail.child_id == id for mail in at.mail)
            # Something is kept ten minutes at least, and nobody delivers a question that is older than half a minute.
            if promise.expires and not is_asked and (spent := _spend(at, "expiry")) is not None:
                redis = self._scripts(at.redis).expire(id)
                yield Step(f"{id} EXPIRES", spent._replace(redis=redis), is_fair=False, is_outside=True)
        for member in [*[member for member, _ in at.redis.timers], "p~9", "nobody~timeout"]:
            if (spent := _spend(at, "stray timer")) is not None:
                timers = tuple(sorted((dict(at.redis.timers) | {member: 1}).items()))
                strayed = spent._replace(redis=at.redis._replace(timers=timers))
                yield Step(f"SOMEBODY WRITES timer {member}", strayed, is_fair=False, is_outside=True)
        if (spent := _spend(at, "clock back")) is not None:
            redis = at.redis._replace(now=state.SPACE // 2)
            yield Step("THE CLOCK IS SET BACK", spent._replace(redis=redis), is_fair=False, is_outside=True)
        yield from self._failovers(at, "failover")
        if at.replica or (at.mail and not at.redis.mail):
            yield from self._failovers(at, "failover of mail")

    def _failovers(self, at: Service, what: str) -> Iterator[Step]:
        """One ``of mail`` goes back to a state in which a message was under way to another partition."""
        spent = _spend(at, what)
        if spent is None:
            return
        for partition in sorted({partition_of(id) for id, _ in at.redis.promises}) if at.replica is None else ():
            behind = at._replace(replica=at.redis, replicated=partition)
            yield Step(f"(the replica of {partition} falls behind)", behind, is_fair=False, is_outside=True)
        if at.replica is not None:
            lost = _failed_over(at.redis, at.replica, at.replicated)
            failed = _send_again(spent._replace(redis=lost, replica=None), at)
            yield Step("FAILOVER: what happened since is gone", failed, is_fair=False, is_outside=True)


def _next_entry(redis: Redis) -> StreamEntry | None:
    """What a worker reads next; nothing of a group that is paused."""
    return None if redis.is_paused else next((entry for entry in redis.stream if entry.holder is None), None)


def _is_too_old(before: Redis, after: Redis, ask: Ask) -> bool:
    """A mailbox has forgotten who has sent it: nobody delivers a question that is older than half a minute."""

    def is_known(redis: Redis) -> bool:
        senders = [line.sender for id, box in redis.mail if id == ask.child_id for line in box.lines]
        return any((one.who, one.incarnation) == (ask.entry, ask.incarnation) for one in senders)

    return is_known(before) and not is_known(after)


def _send_mail(at: Service, *mail: Mail) -> Service:
    """One that is under way already is sent once."""
    return at._replace(mail=tuple(sorted({*at.mail, *mail}, key=repr)))


LIMITED = partition_of("p")
"""The partition of the executions that have limits."""


def _partition_of(name: str) -> int:
    return LIMITED if "/" in name else partition_of(name)


def _failed_over(now: Redis, then: Redis, partition: int) -> Redis:
    """One partition is as it was then; what only one server has, as the workers that it knows, is that of the first."""

    def back(new: tuple[tuple[str, Any], ...], old: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
        kept = [one for one in new if _partition_of(one[0]) != partition]
        return tuple(sorted([*kept, *[one for one in old if _partition_of(one[0]) == partition]]))

    stream = [entry for entry in now.stream if partition_of(entry.id) != partition]
    stream += [entry for entry in then.stream if partition_of(entry.id) == partition]
    first = then if partition == 0 else now
    return first._replace(
        now=now.now,
        last_entry=now.last_entry,
        promises=back(now.promises, then.promises),
        timers=back(now.timers, then.timers),
        stream=tuple(sorted(stream)),
        halted=frozenset(name for name, _ in back(*[tuple((one, 0) for one in of.halted) for of in (now, then)])),
        closing=tuple(name for name, _ in back(*[tuple((one, 0) for one in of.closing) for of in (now, then)])),
        begun=back(now.begun, then.begun),
        limits=then.limits if partition == LIMITED else now.limits,
        mail=back(now.mail, then.mail),
        taken=_of_both(now.taken, then.taken, partition),
        been_read=_of_both(now.been_read, then.been_read, partition),
        unread_at_end=_of_both(now.unread_at_end, then.unread_at_end, partition),
        effects=tuple(
            sorted(
                [
                    *[one for one in now.effects if partition_of(one[0][0]) != partition],
                    *[one for one in then.effects if partition_of(one[0][0]) == partition],
                ]
            )
        ),
    )


def _send_again(failed: Service, before: Service) -> Service:
    """Clients send what was lost once more: some of them wait for what comes of it."""
    lost = Counter(before.redis.taken) - Counter(failed.redis.taken)
    again = [(Send(*one, call=f"{one.text.decode()} again"),) for one in sorted(lost) if b"~" not in one.text]
    return failed._replace(letters=(*failed.letters, *again))


def _of_both(now: tuple[Taken, ...], then: tuple[Taken, ...], partition: int) -> tuple[Taken, ...]:
    kept = [one for one in now if partition_of(one.id) != partition]
    return (*kept, *[one for one in then if partition_of(one.id) == partition])


# -- slots


def _lease(hand: Hand) -> Lease:
    assert hand.lease
    return hand.lease


def _call(hand: Hand) -> Commit:
    assert hand.call
    return hand.call


def _asking(hand: Hand, known: tuple[tuple[str, Entry], ...]) -> Hand:
    """Its code has run: its next commit is on its way."""
    wish, told, seen_number = drive(hand.function, known, hand.base)
    seen = dict(known)[seen_number].stamp if seen_number else 0
    is_open = any(entry.state is State.PENDING for _, entry in told)
    call = Commit(_lease(hand), wish.outcome, wish.ops, seen, seen_number, wish.payload, wish.due, is_open, hand.asked)
    return hand._replace(doing=Doing.SENDING, known=known, call=call)


def _take_answer(hand: Hand, answer: Committed | Refused) -> Hand:
    """A worker gets the answer to its commit: it goes on with the settlements, or gives up the lease."""
    call = _call(hand)
    if isinstance(answer, Refused) or not (answer.word == "redrive" or call.outcome is CommitAction.CONTINUE):
        return Hand(hand.consumer)
    known = dict(hand.known)
    for op in call.ops:
        entry = _entry_of(op)
        if entry and (op.number not in known or isinstance(op, CancelEntry)):
            before = known.get(op.number)
            known[op.number] = entry._replace(stamp=before.stamp if before else 0)
    known.update(answer.entries)
    asked = call.ops[-1].number if call.ops else hand.asked
    return _asking(hand._replace(asked=asked), tuple(sorted(known.items())))


def _entry_of(op: Op) -> Entry | None:
    """What a worker knows about an op it has asked for; it waits for the result of a child or step."""
    match op:
        case StartTimer():
            return Entry(Kind.TIMER)
        case StartPromise():
            return Entry(Kind.PROMISE)
        case StartChild():
            return Entry(Kind.CHILD)
        case StartReceive():
            return Entry(Kind.RECEIVE, name=op.name)
        case SendMessage():
            return Entry(Kind.SEND)
        case SettlePromise():
            return Entry(Kind.SETTLE)
        case CancelEntry(_, kind, _):
            return Entry(kind, State.CANCELED)
        case _:
            return None


def _with(at: Service, index: int, hand: Hand) -> Service:
    return at._replace(hands=(*at.hands[:index], hand, *at.hands[index + 1 :]))


def _spend(at: Service, what: str) -> Service | None:
    """One fault less of a kind, or None if there was none left."""
    left = dict(at.left)
    if not left.get(what):
        return None
    left[what] -= 1
    return at._replace(left=tuple(sorted(left.items())))


def _is_asked(entry: Entry) -> bool:
    return entry.kind is Kind.PROMISE and entry.state is State.PENDING


def _shown(letter: Send) -> str:
    return f"{letter.text.decode()} to {letter.channel} of {letter.id} ({letter.call}{letter.key})"


def _told(call: Commit) -> str:
    ops = ", ".join(f"{type(op).__name__} {op.number}" for op in call.ops)
    seen = f", having seen {call.seen_number}" if call.seen_number else ""
    return f"{call.outcome} of {call.lease.id}, epoch {call.lease.epoch} [{ops}]{seen}"


def _said(answer: Committed | Refused) -> str:
    if isinstance(answer, Refused):
        return answer.code
    return " ".join([answer.word, *[number for number, _ in answer.entries]])


# -- the same service at any time


def by_order(service: Service) -> Service:
    """The same with instants and entry ids by their order, so that fewer states are different."""
    kept = [service.redis] if service.replica is None else [service.redis, service.replica]
    leases = [hand.lease for hand in service.hands if hand.lease] + [call.lease for _, call in service.late]
    calls = [hand.call for hand in service.hands if hand.call] + [call for _, call in service.late]
    known = [entry for hand in service.hands for _, entry in hand.known]
    instants = {call.seen for call in calls} | {entry.stamp for entry in known}
    instants |= {mail.waiter.incarnation if isinstance(mail, Told) else mail.incarnation for mail in service.mail}
    instants |= {entry.due for entry in known if entry.due is not None}
    instants = instants.union(*[state.instants(redis) for redis in kept])
    entries = {lease.entry for lease in leases}.union(*[state.entries(redis) for redis in kept])
    ranks = Ranks(instants, entries)

    def call_of(call: Commit) -> Commit:
        return call._replace(lease=lease_of(call.lease), seen=ranks.instants[call.seen])

    def lease_of(lease: Lease) -> Lease:
        return lease._replace(entry=ranks.entries[lease.entry])

    def hand_of(hand: Hand) -> Hand:
        return hand._replace(
            lease=lease_of(hand.lease) if hand.lease else None,
            known=ranks.journal(hand.known),
            call=call_of(hand.call) if hand.call else None,
        )

    def mail_of(mail: Mail) -> Mail:
        if isinstance(mail, Told):
            return mail._replace(waiter=ranks.waiter(mail.waiter))
        return mail._replace(incarnation=ranks.instants[mail.incarnation])

    return service._replace(
        mail=tuple(sorted(map(mail_of, service.mail), key=repr)),
        redis=ranks.redis(service.redis),
        hands=tuple([hand_of(hand) if hand.lease else hand for hand in service.hands]),
        late=tuple([(consumer, call_of(call)) for consumer, call in service.late]),
        replica=None if service.replica is None else ranks.redis(service.replica),
    )
