"""The rules of Resonate's protocol, as our scripts are to keep them, told again in Python.

A request is its kind and its arguments. What is refused for its shape is not asked here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

NEVER = 2**53 - 1
PENDING, ACQUIRED, SUSPENDED, HALTED, FULFILLED = "pending", "acquired", "suspended", "halted", "fulfilled"


class Made(NamedTuple):
    """What a promise is created with."""

    timeout: int = NEVER
    target: str = ""
    is_timer: bool = False
    is_external: bool = False
    """It has neither target nor timer, and may be awaited."""
    branch: str = ""
    """An internal promise goes with this one, if that is there: nobody looks for its deadline."""
    delay: int = 0


class Task(NamedTuple):
    state: str
    version: int = 0
    pid: str = ""
    ttl: int = 0
    resumes: frozenset[str] = frozenset()


class Promise(NamedTuple):
    made: Made
    created: int
    state: str = PENDING
    value: str = ""
    settled: int | None = None
    task: Task | None = None
    is_by_itself: bool = True
    callbacks: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()

    @property
    def is_external(self) -> bool:
        """Only these can be awaited."""
        return bool(self.made.target) or self.made.is_timer or self.made.is_external


class Redis(NamedTuple):
    """The data between two scripts."""

    now: int = 0
    promises: tuple[tuple[str, Promise], ...] = ()
    deadlines: tuple[tuple[str, int], ...] = ()
    turns: tuple[tuple[str, int], ...] = ()
    """Of a task: when its lease ends, or when it is queued, for the first time or again."""
    queued: tuple[tuple[str, int], ...] = ()
    """The tasks to execute, each since when."""
    inbox: tuple[tuple[str, str], ...] = ()
    """Addresses, each with the id of a promise that has settled."""
    wakes: int = 0
    """How often those that deliver were told to look."""

    def promise(self, id: str) -> Promise | None:
        return next((promise for one, promise in self.promises if one == id), None)

    def task(self, id: str) -> Task | None:
        promise = self.promise(id)
        return promise.task if promise else None


class Ask(NamedTuple):
    kind: str
    args: tuple[Any, ...]

    @property
    def named(self) -> Iterable[str]:
        """The ids of the promises that it is about."""
        args: tuple[Any, ...] = self.args
        match self.kind:
            case "promise.register_callback":
                return args
            case "task.suspend":
                return (args[0], *args[2])
            case "task.fence":
                return (args[0], *args[2].named)
            case "task.heartbeat":
                return [id for id, _ in args[1]]
            case _:
                return args[:1]


class Answer(NamedTuple):
    status: int
    promise: Promise | None = None
    task: Task | None = None
    inner: tuple[int, Promise | None] | None = None


NOT_FOUND, CONFLICT, REFUSED, DONE = Answer(404), Answer(409), Answer(422), Answer(200)


class Rules:
    """The data while a script runs; a test breaks a rule by overriding it."""

    retry_ms = 30_000
    refused_min, refused_ms = 30, 1_000

    def __init__(self, redis: Redis) -> None:
        self.now, self.wakes = redis.now, redis.wakes
        self.promises = dict(redis.promises)
        self.deadlines, self.turns, self.queued = dict(redis.deadlines), dict(redis.turns), dict(redis.queued)
        self.inbox = list(redis.inbox)
        self._known = (min([*self.deadlines.values(), *self.turns.values()], default=NEVER), redis.queued, redis.inbox)

    def redis(self) -> Redis:
        """The data as they are now; whoever sleeps until something is due, hears of what comes earlier."""
        queued, inbox = tuple(sorted(self.queued.items())), tuple(self.inbox)
        until = min([*self.deadlines.values(), *self.turns.values()], default=NEVER)
        if self.is_worth_a_look(until, queued, inbox):
            self.wakes += 1
        return Redis(
            self.now,
            tuple(sorted(self.promises.items())),
            tuple(sorted(self.deadlines.items())),
            tuple(sorted(self.turns.items())),
            queued,
            inbox,
            self.wakes,
        )

    def ask(self, ask: Ask) -> Answer:
        answer: Answer = getattr(self, ask.kind.replace(".", "_"))(*ask.args)
        return answer

    # -- rules

    def is_worth_a_look(
        self, until: int, queued: tuple[tuple[str, int], ...], inbox: tuple[tuple[str, str], ...]
    ) -> bool:
        """Whether those that deliver have something to send, or to wait for, that they do not know of."""
        was_until, was_queued, was_inbox = self._known
        return until < was_until or bool(set(queued) - set(was_queued)) or len(inbox) > len(was_inbox)

    def is_due(self, at: int) -> bool:
        return at <= self.now

    def touch(self, id: str) -> Promise | None:
        """The promise as it is now: past its deadline it has settled, whoever looks first."""
        promise = self.promises.get(id)
        if promise and promise.state == PENDING and self.is_due(promise.made.timeout):
            self.settle(id, _timed_out(promise.made), "", promise.made.timeout)
        return self.promises.get(id)

    def settle(self, id: str, state: str, value: str, at: int) -> None:
        promise = self.promises[id]
        self.promises[id] = promise._replace(state=state, value=value, settled=at, callbacks=(), listeners=())
        self.disarm(id)
        self.end_task(id)
        for awaiter in promise.callbacks:
            self.resume(awaiter, id)
        for address in promise.listeners:
            self.notify(address, id)

    def disarm(self, id: str) -> None:
        self.deadlines.pop(id, None)

    def end_task(self, id: str) -> None:
        task = self.promises[id].task
        if task and task.state != FULFILLED:
            self.put(id, Task(FULFILLED, task.version))
            self.leave(id)

    def notify(self, address: str, id: str) -> None:
        self.inbox.append((address, id))

    def resume(self, awaiter: str, awaited: str) -> None:
        promise = self.promises[awaiter]
        task = promise.task
        if not task or promise.state != PENDING or promise.made.timeout <= self.now:
            return
        if task.state == SUSPENDED:
            self.put(awaiter, task._replace(state=PENDING, resumes=frozenset([awaited])))
            self.execute(awaiter)
        else:
            self.put(awaiter, task._replace(resumes=task.resumes | {awaited}))

    def execute(self, id: str) -> None:
        """Somebody is to take it up. A timer only waits for its deadline."""
        if not self.is_sleeper(id):
            self.queued.setdefault(id, self.now)

    def is_sleeper(self, id: str) -> bool:
        return self.promises[id].made.is_timer

    def arm_retry(self, id: str, at: int) -> None:
        self.turns[id] = at

    def leave(self, id: str) -> None:
        """It is not to be executed, and has no lease."""
        self.turns.pop(id, None)
        self.queued.pop(id, None)

    def is_held(self, promise: Promise, version: int) -> bool:
        task = promise.task
        return bool(task) and task.state == ACQUIRED and promise.state == PENDING and task.version == version

    def next_version(self, task: Task) -> int:
        return task.version + 1

    def arm_lease(self, id: str, ttl: int) -> None:
        self.turns[id] = self.now + ttl

    def can_be_awaited(self, promise: Promise) -> bool:
        return promise.is_external

    def is_redriven(self, awaited: Iterable[str]) -> bool:
        """Whether something it would wait for has settled: it goes on instead."""
        return any(self.promises[id].state != PENDING for id in awaited)

    def is_beating(self, promise: Promise, version: int, pid: str) -> bool:
        return self.is_held(promise, version) and promise.task is not None and promise.task.pid == pid

    def is_there(self, id: str) -> bool:
        return id in self.promises

    def is_settled(self, promise: Promise) -> bool:
        return promise.state != PENDING

    def is_delayed(self, made: Made) -> bool:
        return made.delay > self.now

    # -- promises

    def put(self, id: str, task: Task) -> None:
        self.promises[id] = self.promises[id]._replace(task=task)

    def make(self, id: str, made: Made, task: Task | None) -> Promise:
        """One past its deadline is born dead."""
        is_by_itself = not made.branch or made.branch == id or not self.is_there(made.branch)
        is_by_itself = is_by_itself or Promise(made, 0).is_external
        if made.timeout > self.now:
            promise = Promise(made, self.now, task=task, is_by_itself=is_by_itself)
            if is_by_itself:
                self.deadlines[id] = made.timeout
        else:
            state, at, ended = _timed_out(made), made.timeout, task and Task(FULFILLED)
            promise = Promise(made, at, state, settled=at, task=ended, is_by_itself=is_by_itself)
        self.promises[id] = promise
        return promise

    def promise_get(self, id: str) -> Answer:
        promise = self.touch(id)
        return Answer(200, promise) if promise else NOT_FOUND

    def promise_create(self, id: str, made: Made) -> Answer:
        if self.is_there(id):
            return Answer(200, self.touch(id))
        promise = self.make(id, made, Task(PENDING) if made.target else None)
        if promise.state == PENDING and promise.task:
            if self.is_delayed(made) and not made.is_timer:
                self.arm_retry(id, made.delay)
            else:
                self.execute(id)
        return Answer(200, promise)

    def promise_settle(self, id: str, state: str, value: str) -> Answer:
        promise = self.touch(id)
        if not promise:
            return NOT_FOUND
        if not self.is_settled(promise):
            self.settle(id, state, value, self.now)
        return Answer(200, self.promises[id])

    def promise_register_callback(self, awaited: str, awaiter: str) -> Answer:
        self.touch(awaited)
        waiting = self.touch(awaiter)
        promise = self.promises.get(awaited)
        if not promise:
            return NOT_FOUND
        if not waiting or not waiting.made.target or not self.can_be_awaited(promise):
            return REFUSED
        if promise.state == waiting.state == PENDING:
            self.add_callback(awaited, awaiter)
        return Answer(200, self.promises[awaited])

    def add_callback(self, awaited: str, awaiter: str) -> None:
        promise = self.promises[awaited]
        if awaiter not in promise.callbacks:
            self.promises[awaited] = promise._replace(callbacks=(*promise.callbacks, awaiter))

    def promise_register_listener(self, awaited: str, address: str) -> Answer:
        promise = self.touch(awaited)
        if not promise:
            return NOT_FOUND
        if not self.can_be_awaited(promise):
            return REFUSED
        if promise.state == PENDING and address not in promise.listeners:
            self.promises[awaited] = promise._replace(listeners=(*promise.listeners, address))
        return Answer(200, self.promises[awaited])

    # -- tasks

    def task_get(self, id: str) -> Answer:
        promise = self.touch(id)
        return Answer(200, task=promise.task) if promise and promise.task else NOT_FOUND

    def task_create(self, id: str, made: Made, pid: str, ttl: int) -> Answer:
        promise = self.touch(id)
        if not promise:
            promise = self.make(id, made, Task(PENDING))
            return self.acquire(id, pid, ttl) if promise.state == PENDING else self._with_task(id)
        if not promise.task:
            return REFUSED
        match promise.task.state:
            case "pending":
                return self.acquire(id, pid, ttl)
            case "fulfilled":
                return self._with_task(id)
            case _:
                return CONFLICT

    def task_acquire(self, id: str, version: int, pid: str, ttl: int) -> Answer:
        promise = self.touch(id)
        if not promise or not promise.task:
            return NOT_FOUND
        if promise.task.state != PENDING or promise.state != PENDING or promise.task.version != version:
            return CONFLICT
        return self.acquire(id, pid, ttl)

    def acquire(self, id: str, pid: str, ttl: int) -> Answer:
        task = self.promises[id].task
        assert task
        self.leave(id)
        self.put(id, Task(ACQUIRED, self.next_version(task), pid, ttl))
        self.arm_lease(id, ttl)
        return self._with_task(id)

    def _with_task(self, id: str) -> Answer:
        promise = self.promises[id]
        return Answer(200, promise, promise.task)

    def held(self, id: str, version: int) -> Answer | None:
        """Why it is not held in this version."""
        promise = self.touch(id)
        if not promise or not promise.task:
            return NOT_FOUND
        return None if self.is_held(promise, version) else CONFLICT

    def task_release(self, id: str, version: int) -> Answer:
        if refusal := self.held(id, version):
            return refusal
        is_refused = self.is_refused(id)
        self.release(id, self.now + self.refused_ms if is_refused else None)
        return DONE

    def is_refused(self, id: str) -> bool:
        """Whether it is given back at once, again and again: whoever does that cannot run it."""
        task = self.promises[id].task
        is_often = task is not None and task.version >= self.refused_min
        return is_often and self.turns[id] - (task.ttl if task else 0) > self.now - self.refused_ms

    def release(self, id: str, at: int | None = None) -> None:
        """It is offered again: at once, or at another time."""
        task = self.promises[id].task
        assert task
        self.leave(id)
        self.put(id, Task(PENDING, task.version, resumes=task.resumes))
        if at is None:
            self.execute(id)
        else:
            self.turns[id] = at

    def task_fulfill(self, id: str, version: int, state: str, value: str) -> Answer:
        return self.held(id, version) or self.promise_settle(id, state, value)

    def task_suspend(self, id: str, version: int, awaited: tuple[str, ...]) -> Answer:
        if refusal := self.held(id, version):
            return refusal
        for one in awaited:
            promise = self.touch(one)
            if not promise or not self.can_be_awaited(promise):
                return REFUSED
        task = self.promises[id].task
        assert task
        if self.is_redriven(awaited):
            self.put(id, task._replace(resumes=frozenset()))
            return Answer(300)
        for one in awaited:
            self.add_callback(one, id)
        self.leave(id)
        self.put(id, Task(SUSPENDED, task.version))
        return DONE

    def task_fence(self, id: str, version: int, action: Ask) -> Answer:
        refusal = self.held(id, version)
        if refusal:
            return refusal
        inner = self.ask(action)
        return Answer(200, inner=(inner.status, inner.promise))

    def task_heartbeat(self, pid: str, tasks: tuple[tuple[str, int], ...]) -> Answer:
        for id, version in tasks:
            promise = self.touch(id)
            if promise and promise.task and self.is_beating(promise, version, pid):
                self.arm_lease(id, promise.task.ttl)
        return DONE

    def task_halt(self, id: str) -> Answer:
        promise = self.touch(id)
        task = promise and promise.task
        if not task:
            return NOT_FOUND
        if task.state == FULFILLED:
            return CONFLICT
        self.leave(id)
        self.put(id, Task(HALTED, task.version, resumes=task.resumes))
        return DONE

    def task_continue(self, id: str) -> Answer:
        promise = self.touch(id)
        task = promise and promise.task
        if not task:
            return NOT_FOUND
        if task.state != HALTED:
            return CONFLICT
        self.release(id)
        return DONE

    # -- what is due, and what is delivered

    def tick(self) -> None:
        """What is due happens: deadlines first."""
        for id in [id for id, at in self.deadlines.items() if self.is_due(at)]:
            self.touch(id)
        for id in [id for id, at in self.turns.items() if self.is_due(at)]:
            self.take_turn(id)

    def take_turn(self, id: str) -> None:
        """A lease has ended, or nobody has taken it up since it was last said, or for the first time."""
        self.touch(id)
        task = self.promises[id].task
        self.turns.pop(id, None)
        if task and task.state == ACQUIRED:
            self.release(id)
        elif task and task.state == PENDING:
            self.execute(id)

    def take(self, addresses: Iterable[str]) -> list[tuple[str, str, int | None]]:
        """The messages for some addresses: to execute a task in a version, or that a promise has settled. They may be
        lost: a task that nobody acquires is queued again.
        """
        taken: list[tuple[str, str, int | None]] = []
        for id in [id for id in self.queued if queue_of(self.promises[id].made.target) in addresses]:
            del self.queued[id]
            promise = self.promises[id]
            if promise.task and promise.task.state == promise.state == PENDING:
                self.arm_retry(id, self.now + self.retry_ms)
                taken.append((queue_of(promise.made.target), id, promise.task.version))
        taken += [(address, id, None) for address, id in self.inbox if address in addresses]
        self.inbox = [one for one in self.inbox if one[0] not in addresses]
        return taken


def queue_of(target: str) -> str:
    """Which process of a group should get it is only a wish."""
    return "/".join(target.split("/")[:3]) if target.startswith("poll://any@") else target


def _timed_out(made: Made) -> str:
    return "resolved" if made.is_timer else "rejected_timedout"
