"""Requests of Resonate's protocol as plans: most go to a script as they came, others are divided or need a cron line.

Each step may be repeated, since whoever sends a request repeats it when there was no answer. A promise that a task
makes or settles in another partition is made after it was seen that the task is held, not at the same instant.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import msgspec

from durasleep.cron import Spec, translated
from durasleep.errors import DurasleepError, UsageError
from durasleep.protocol import resonate, server
from durasleep.protocol.command import Command, Plan, unwrap
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.resonate import VERSION, Answer, DueSchedule, Retained, Tell, Ticked, keys_of

TICKS_MAX = 100
"""Times of one schedule for which promises are made at once; the others follow."""
_PLAIN_BYTES_MAX = 16_384  # a longer heartbeat may name more tasks than one call looks at
_ELEMENTS_MAX = 100_000  # of a request: more than a task has that waits for all that it may
_Raw = dict[str, msgspec.Raw]

_HEADS = msgspec.json.Decoder(_Raw)
_ANY = msgspec.json.Decoder(float_hook=float)  # 1e999 is infinite here and in Redis; no field takes it
_LOOK = msgspec.json.Decoder(msgspec.Raw)  # builds nothing: half a microsecond
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_encode = msgspec.json.encode


def refusal(status: int, text: str, *, kind: str = "", corr_id: str = "") -> Answer:
    """An answer that no script gives."""
    return _answer(status, _encode(text), kind, corr_id)


def _envelope(kind: str, corr_id: str, status: int, data: bytes) -> bytes:
    head = _encode({"corrId": corr_id, "status": status, "version": VERSION})
    return b'{"kind":%s,"head":%s,"data":%s}' % (_encode(kind), head, data)


def _answer(status: int, data: bytes, kind: str, corr_id: str) -> Answer:
    return Answer(status, _envelope(kind, corr_id, status, data))


def plain(keyspaces: Keyspaces, request: bytes) -> Command[Answer] | None:
    """The one call that does a request, if nobody needs to read it before; None if ``ask`` has to.

    What is not JSON, or has very many elements, is for ``ask``, too, which refuses it: Redis would take ``NaN``, and
    stop for a while.
    """
    if (
        len(keyspaces) > 1
        or b'"schedule.create"' in request
        or (b"heartbeat" in request and len(request) > _PLAIN_BYTES_MAX)
        or not _is_json(request)
        or _has_many(request)
    ):
        return None
    return resonate.rpc(keyspaces[0], request)


def _is_json(request: bytes) -> bool:
    try:
        _LOOK.decode(request)
        if not request.isascii():
            request.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _has_many(request: bytes) -> bool:
    """Whether it has more elements than it may; those in a text do not count."""
    return _elements(request) > _ELEMENTS_MAX and _elements(_TEXT.sub(b"", request)) > _ELEMENTS_MAX


def _elements(request: bytes) -> int:
    return request.count(b",") + request.count(b"[") + request.count(b"{")


def ask(keyspaces: Keyspaces, request: bytes, *, may_simulate: bool = False) -> Plan[Answer]:
    """Do any request. With ``may_simulate`` the time is the one in its head, if there is one."""
    if _has_many(request):
        return refusal(400, f"The request has more than {_ELEMENTS_MAX} elements")
    try:
        whole = _as_object(_ANY.decode(request)) if _is_json(request) else {}
    except msgspec.DecodeError:  # a whole number of thousands of digits
        whole = {}
    if not isinstance(whole.get("head"), dict | list):
        return refusal(400, "The request is not JSON with a kind, a head and data")
    head = _as_object(whole["head"])
    time = head.get("resonate:debug_time") if may_simulate else None
    now_ms = time if isinstance(time, int) and time >= 0 else None
    data, kind = _as_object(whole.get("data")), whole.get("kind")
    if not isinstance(kind, str):
        return (yield from _whole(keyspaces, "", request, now_ms))
    return (yield from _Request(keyspaces, request, head, data, kind, now_ms).ask())


def _whole(
    keyspaces: Keyspaces, id: object, request: bytes, now_ms: int | None, next_run_at: int | None = None
) -> Plan[Answer]:
    """In the partition of an id. The script refuses one that is no id."""
    keys = keys_of(keyspaces, id if isinstance(id, str) else "")
    [answer] = yield [resonate.rpc(keys, request, now_ms=now_ms, next_run_at=next_run_at)]
    return unwrap(answer)


class _Request:
    """A request that was read."""

    def __init__(
        self,
        keyspaces: Keyspaces,
        request: bytes,
        head: dict[str, Any],
        data: dict[str, Any],
        kind: str,
        now_ms: int | None,
    ) -> None:
        self._keyspaces = keyspaces
        self._request = request
        self._head = head
        self._data = data
        self._kind = kind
        self._now_ms = now_ms
        self._corr_id = head["corrId"] if isinstance(head.get("corrId"), str) else ""

    def ask(self) -> Plan[Answer]:
        data = self._data
        match self._kind:
            case "schedule.create":
                return self._create_schedule()
            case "task.heartbeat":
                return self._heartbeat()
            case "task.create":
                action = _object(_object(data, "action"), "data")
                return _whole(self._keyspaces, action.get("id"), self._request, self._now_ms)
            case "promise.register_callback" if self._are_apart(data.get("awaited"), data.get("awaiter")):
                return self._register_callback()
            case "task.fence" if self._are_apart(data.get("id"), _object(_object(data, "action"), "data").get("id")):
                return self._fence()
            case "task.suspend" if elsewhere := self._awaited_elsewhere():
                return self._suspend(elsewhere)
            case "promise.register_callback" | "promise.register_listener":
                return _whole(self._keyspaces, data.get("awaited"), self._request, self._now_ms)
            case _:
                return _whole(self._keyspaces, data.get("id"), self._request, self._now_ms)

    def _are_apart(self, one: object, other: object) -> bool:
        if not isinstance(one, str) or not isinstance(other, str):
            return False
        return keys_of(self._keyspaces, one) is not keys_of(self._keyspaces, other)

    def _rpc(self, id: str, request: bytes, part: str = "", others: Sequence[str] = ()) -> Command[Answer]:
        return resonate.rpc(keys_of(self._keyspaces, id), request, now_ms=self._now_ms, part=part, others=others)

    def _ask(self, kind: str, at: str, part: str = "", others: Sequence[str] = (), **data: object) -> Command[Answer]:
        """Another request with the same head, in the partition of the id ``at``."""
        request = _encode({"kind": kind, "head": self._head, "data": data})
        return self._rpc(at, request, part, others)

    def _refuse(self, status: int, data: bytes) -> Answer:
        return _answer(status, data, self._kind, self._corr_id)

    def _create_schedule(self) -> Plan[Answer]:
        id, cron = self._data.get("id"), self._data.get("cron")
        now_ms = self._now_ms
        if now_ms is None:
            now_ms = yield from server.now_ms(keys_of(self._keyspaces, id if isinstance(id, str) else ""))
        next_run_at = next_of(cron, now_ms) if isinstance(cron, str) else None
        return (yield from _whole(self._keyspaces, id, self._request, self._now_ms, next_run_at))

    def _heartbeat(self) -> Plan[Answer]:
        tasks = _as_list(self._data.get("tasks"))
        if not tasks or not all(map(_is_task, tasks)):
            return (
                yield from _whole(self._keyspaces, "", self._request, self._now_ms)
            )  # it is refused, or does nothing
        by_partition: dict[int, list[Any]] = {}
        for task in tasks:
            by_partition.setdefault(keys_of(self._keyspaces, task["id"]).partition, []).append(task)
        calls = [
            self._ask(self._kind, some[0]["id"], pid=self._data.get("pid"), tasks=list(some))
            for there in by_partition.values()
            for some in _portions(there, LIMIT["resonate_tasks_max"])
        ]
        answers = [unwrap(answer) for answer in (yield calls)]
        return max(answers, key=lambda answer: answer.status)

    def _register_callback(self) -> Plan[Answer]:
        awaited, awaiter = self._data["awaited"], self._data["awaiter"]
        found = yield [self._ask("promise.get", awaiter, id=awaiter), self._ask("task.get", awaiter, id=awaiter)]
        promise, task = map(unwrap, found)
        is_what = "missing" if promise.status != _OK else "untargeted" if task.status != _OK else "settled"
        if promise.status == _OK and _data_of(promise)["promise"]["state"] == "pending" and is_what == "settled":
            is_what = "pending"
        [answer] = yield [self._rpc(awaited, self._request, "there", [is_what])]
        return unwrap(answer)

    def _fence(self) -> Plan[Answer]:
        [held] = yield [self._rpc(self._data["id"], self._request, "held")]
        if unwrap(held).status != _OK:
            return unwrap(held)
        action = self._data["action"]
        # Its data goes on as it was sent.
        raw = _HEADS.decode(_HEADS.decode(_HEADS.decode(self._request)["data"])["action"])["data"]
        kind, inner_head = action["kind"], _object(action, "head")
        request = _encode({"kind": kind, "head": {"corrId": "", "version": VERSION}, "data": msgspec.Raw(raw)})
        part = "there" if kind == "promise.create" else ""
        [reply] = yield [self._rpc(action["data"]["id"], request, part, [self._data["id"]])]
        inner = unwrap(reply)
        inner_data = bytes(_HEADS.decode(inner.body)["data"])
        if inner.status in _REFUSED:
            return self._refuse(inner.status, inner_data)
        corr_id = inner_head.get("corrId")
        envelope = _envelope(kind, corr_id if isinstance(corr_id, str) else "", inner.status, inner_data)
        return self._refuse(_OK, b'{"action":%s,"preload":[]}' % envelope)

    def _awaited_elsewhere(self) -> list[str]:
        """What a task waits for in other partitions."""
        id = self._data.get("id")
        if len(self._keyspaces) == 1 or not isinstance(id, str):
            return []
        ids = [_object(action, "data").get("awaited") for action in _as_list(self._data.get("actions"))]
        return [awaited for awaited in ids if isinstance(awaited, str) and self._are_apart(id, awaited)]

    def _suspend(self, elsewhere: Sequence[str]) -> Plan[Answer]:
        """First the others learn that the task waits; then it is suspended, unless it has heard of an end meanwhile."""
        id, version, actions = self._data["id"], self._data.get("version"), self._data["actions"]
        [held] = yield [self._rpc(id, self._request, "held")]
        if unwrap(held).status != _OK:
            return unwrap(held)
        by_partition: dict[int, list[Any]] = {}
        for action in actions:
            by_partition.setdefault(keys_of(self._keyspaces, action["data"]["awaited"]).partition, []).append(action)
        here = by_partition.pop(keys_of(self._keyspaces, id).partition, [])
        calls = [
            self._ask(self._kind, some[0]["data"]["awaited"], "there", id=id, version=version, actions=some)
            for some in by_partition.values()
        ]
        answers = [unwrap(answer) for answer in (yield calls)]
        if refused := next((answer for answer in answers if answer.status != _OK), None):
            return refused
        word = "settled" if any(_data_of(answer)["settled"] for answer in answers) else "here"
        [answer] = yield [self._ask(self._kind, id, word, elsewhere, id=id, version=version, actions=here)]
        return unwrap(answer)


_OK = 200
_WRONG = 400
_MISSING = 404
_REFUSED = (_WRONG, 503)


def _is_task(task: object) -> bool:
    """Whether a script takes this as a task in a heartbeat."""
    read = _as_object(task)
    id, version = read.get("id"), read.get("version")
    return (
        isinstance(id, str)
        and 0 < len(id.encode()) <= LIMIT["resonate_id_bytes_max"]
        and "\0" not in id
        and (isinstance(version, int) or (isinstance(version, float) and version.is_integer()))
        and not isinstance(version, bool)
        and version >= 0
    )


def _as_object(found: object) -> dict[str, Any]:
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _as_list(found: object) -> list[Any]:
    return cast("list[Any]", found) if isinstance(found, list) else []


def _object(of: object, name: str) -> dict[str, Any]:
    return _as_object(_as_object(of).get(name))


def _data_of(answer: Answer) -> dict[str, Any]:
    return _ANY.decode(answer.body)["data"]


def _portions(many: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (many[at : at + size] for at in range(0, len(many), size))


# -- schedules, and what goes from one partition to another


def next_of(cron: str, after_ms: int) -> int | None:
    """The first instant after another one that a cron line names, in UTC; None if it names none."""
    try:
        return Spec("UTC", lines=(translated(cron),)).checked().next_after(after_ms)
    except UsageError:
        return None


def tick(keyspaces: Keyspaces, keys: Keyspace, *, limit: int = 100, now_ms: int | None = None) -> Plan[Ticked]:
    """Do what is due in a partition, and what follows from it."""
    [answer] = yield [resonate.tick(keys, limit=limit, now_ms=now_ms)]
    ticked: Ticked = unwrap(answer)
    yield from follow(keyspaces, keys, ticked, now_ms=now_ms)
    return ticked


def follow(keyspaces: Keyspaces, keys: Keyspace, ticked: Ticked, *, now_ms: int | None = None) -> Plan[None]:
    """What a tick leaves to its caller: the promises of schedules, and what is to be told to other partitions. If the
    caller does not do it, the next tick some seconds later says it again.
    """
    starts = [_start(keyspaces, keys, one, ticked.server_us // 1000, now_ms) for one in ticked.schedules]
    steps = [_notify(keyspaces, keys, ticked.tells, now_ms), *starts]
    random.shuffle(steps)  # a node of a cluster that is away ends this plan: what comes after it has its turn later
    for step in steps:
        ticked.problems.extend((yield from step))


def _start(
    keyspaces: Keyspaces, keys: Keyspace, schedule: DueSchedule, until_ms: int, now_ms: int | None
) -> Plan[list[str]]:
    """Make the promises of a schedule for its times until now, the oldest first; returns what was refused.

    A promise that breaks a rule is left out. If one cannot be made now, as in a Redis that is full, its time stays due.
    """
    try:
        return (yield from _make(keyspaces, keys, schedule, until_ms, now_ms))
    except (DurasleepError, msgspec.DecodeError, ValueError) as error:
        return [f"those of {schedule.id} are made later: {error}"]


def _make(
    keyspaces: Keyspaces, keys: Keyspace, schedule: DueSchedule, until_ms: int, now_ms: int | None
) -> Plan[list[str]]:
    if next_of(schedule.cron, until_ms) is None:
        return []  # another version has read it: a caller of that version is offered it, too
    spec = Spec("UTC", lines=(translated(schedule.cron),))
    times = list(islice(spec.ticks(schedule.due_ms, until_ms), TICKS_MAX))
    calls = [_promise_of(keyspaces, schedule, tick_ms, now_ms) for tick_ms in times]
    problems: list[str] = []
    last_ms = None
    for tick_ms, reply in zip(times, (yield calls), strict=True):
        is_wrong = isinstance(reply, Answer) and reply.status == _WRONG
        is_made = isinstance(reply, Answer) and reply.status == _OK
        if not is_made:
            why = _ANY.decode(reply.body)["data"] if isinstance(reply, Answer) else reply
            problems.append(f"that of {schedule.id} for {tick_ms} is {'left out' if is_wrong else 'made later'}: {why}")
        if not is_made and not is_wrong:
            break
        last_ms = tick_ms
    if last_ms is not None:
        note = resonate.advance(schedule, spec.next_after(last_ms), last_ms)
        [advanced] = yield [resonate.tick(keys, limit=0, now_ms=now_ms, notes=[note])]
        unwrap(advanced)
    return problems


def _promise_of(keyspaces: Keyspaces, schedule: DueSchedule, tick_ms: int, now_ms: int | None) -> Command[Answer]:
    id = schedule.promise_id.replace("{{.id}}", schedule.id).replace("{{.timestamp}}", str(tick_ms))
    tags = _ANY.decode(schedule.tags)
    tags |= {f"resonate:{name}": id for name in ("origin", "branch", "parent")} | {"resonate:schedule": schedule.id}
    data = {"id": id, "timeoutAt": tick_ms + schedule.timeout_ms, "param": msgspec.Raw(schedule.param), "tags": tags}
    request = {"kind": "promise.create", "head": {"corrId": "", "version": VERSION}, "data": data}
    return resonate.rpc(keys_of(keyspaces, id), _encode(request), now_ms=now_ms)


def _notify(keyspaces: Keyspaces, keys: Keyspace, tells: Sequence[Tell], now_ms: int | None) -> Plan[list[str]]:
    """Tell tasks of other partitions what has settled. It is forgotten here when they have heard."""
    calls = [
        resonate.tick(keys_of(keyspaces, one.awaiter), limit=0, now_ms=now_ms, notes=[resonate.settled(one)])
        for one in tells
    ]
    answers = (yield calls) if calls else []
    heard = [resonate.told(one) for one, answer in zip(tells, answers, strict=True) if isinstance(answer, Ticked)]
    if heard:
        yield [resonate.tick(keys, limit=0, now_ms=now_ms, notes=heard)]  # without that, they hear it again
    return [
        f"{one.awaiter} is told later of the end of {one.awaited}: {answer}"
        for one, answer in zip(tells, answers, strict=True)
        if not isinstance(answer, Ticked)
    ]


def retain(keyspaces: Keyspaces, keys: Keyspace, *, limit: int = 100, now_ms: int | None = None) -> Plan[Retained]:
    """Remove promises of a partition that settled long enough ago, and that no task needs, wherever it is."""
    [answer] = yield [resonate.retain(keys, limit=limit, now_ms=now_ms)]
    retained: Retained = unwrap(answer)
    if retained.foreign:
        answers = yield [_task(keyspaces, one.awaiter, now_ms) for one in retained.foreign]
        ended = [one for one, answer in zip(retained.foreign, answers, strict=True) if _has_ended(answer)]
        [forgotten] = yield [resonate.retain(keys, limit=0, now_ms=now_ms, ended=ended)]
        unwrap(forgotten)
    return retained


def _task(keyspaces: Keyspaces, id: str, now_ms: int | None) -> Command[Answer]:
    request = {"kind": "task.get", "head": {"corrId": "", "version": VERSION}, "data": {"id": id}}
    return resonate.rpc(keys_of(keyspaces, id), _encode(request), now_ms=now_ms)


def _has_ended(answer: Answer | DurasleepError) -> bool:
    if isinstance(answer, DurasleepError):
        return False
    return answer.status == _MISSING or (answer.status == _OK and _data_of(answer)["task"]["state"] == "fulfilled")
