"""The bridge between executions and the promises of Resonate: which belong together, and what is asked for them.

Outward, an execution of a bridged group is a promise that a worker of another language fulfils. Inward, a promise with
the target ``durasleep://GROUP`` is an execution. Nothing is sent once. What a promise has to tell stays in the queue
``durasleep://`` of its partition until it was carried; what an execution has to tell stays among its waiters, as for
waiters of other partitions, see ``foreign``. So each message may be lost, and may come twice.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, cast
from urllib.parse import quote, unquote

import msgspec

from durasleep.errors import DurasleepError, InvalidId, StoreError, UsageError
from durasleep.model import DUE_MS_MAX, Due, PromiseId, check_name, check_new_id
from durasleep.protocol.command import BatchItem, route
from durasleep.protocol.keys import LIMIT, Keyspace
from durasleep.protocol.promises import NO_TRAITS, Created, parse_created
from durasleep.protocol.resonate import OURS, VERSION, Answer

ANSWERS = "durasleep:answers"
"""The tag of an outward promise: the incarnation of its execution, a space, and the id of the entry that waits."""

PID = "durasleep"
"""Who holds the task of an inward promise, so that nobody else does."""

HELD_MS, HELD_MS_MAX = 60_000, 3_600_000
"""How long, the first time and at most: it doubles. Then it is looked at again, because nobody may know its function,
or a failover may have lost its execution, or that one's waiter.
"""

FOREVER_MS = (1 << 53) - 1
"""The deadline of a promise without one: the largest number that every language keeps."""

_TARGET = "resonate:target"
_INCARNATION = re.compile(r"[0-9]{1,16}")
_INWARD_WAITER, _OUTWARD_WAITER = "inward", "outward"  # instead of an incarnation in the line of a waiter
_OUTWARD = re.compile(r"[%:.]")
_INWARD = re.compile(r"[%~{}\x00-\x1f\x7f-\x9f]")
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")

Promise = dict[str, Any]
"""A promise of Resonate as its server shows it."""


def promise_id(id: PromiseId, incarnation: int | None = None) -> str:
    """The id of the outward promise of an execution; with its ``incarnation`` if another one has taken the first id.
    InvalidId if it would be too long.

    The characters between which SDKs name the children of a promise are percent-encoded. No execution has an id that
    ends with ``~i`` and a number.
    """
    encoded = _OUTWARD.sub(_percent, id)
    made = encoded if incarnation is None else f"{encoded}~i{incarnation}"
    if (size := len(made.encode())) > LIMIT["resonate_id_bytes_max"]:
        raise InvalidId(
            f"the id {made[:80]}... is too long for a promise of another language: it would have {size} bytes, at most "
            f"{LIMIT['resonate_id_bytes_max']} are allowed; %, : and . count three times"
        )
    return made


def execution_id(promise_id: str) -> PromiseId:
    """The id of the execution of an inward promise; InvalidId if it would be too long.

    What durasleep gives a meaning, and what it does not allow, is percent-encoded.
    """
    return check_new_id(_INWARD.sub(_percent, promise_id))


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def group_of(promise: Promise) -> str | None:
    """The group of the execution of an inward promise, None for any other promise; InvalidId if it is no name."""
    target = _tag(promise, _TARGET)
    return check_name(target.removeprefix(OURS), "group") if is_inward(promise) else None


def is_inward(promise: Promise) -> bool:
    """Whether its target is a group of durasleep."""
    return _tag(promise, _TARGET).startswith(OURS)


def target_group_of(promise: Promise) -> str:
    """The group in its target, ``poll://any@GROUP``, for people."""
    return _tag(promise, _TARGET).partition("@")[2].partition("/")[0] or "resonate"


def answers(promise: Promise) -> tuple[int, PromiseId] | None:
    """What waits for an outward promise: incarnation of the execution, and its entry; None for any other promise."""
    incarnation, _, entry_id = _tag(promise, ANSWERS).partition(" ")
    return (int(incarnation), PromiseId(entry_id)) if _INCARNATION.fullmatch(incarnation) and "~" in entry_id else None


def belongs(promise: Promise, id: PromiseId, incarnation: str) -> bool:
    """Whether a promise stands for this execution."""
    if is_inward(promise):
        try:
            return execution_id(promise["id"]) == id
        except InvalidId:
            return False
    return _tag(promise, ANSWERS).startswith(f"{incarnation} {id}~")


def _tag(promise: Promise, name: str) -> str:
    return str(promise.get("tags", {}).get(name, ""))


def deadline_of(promise: Promise) -> Due | None:
    """The deadline of its execution; None for one that no calendar reaches."""
    return None if promise["timeoutAt"] > DUE_MS_MAX else Due(f"={promise['timeoutAt']}")


# -- waiters of executions


def waiter(partition: int, promise_id: str, *, is_outward: bool = False) -> str:
    """The line of a promise among the waiters of its execution, see ``foreign.waiter_of``."""
    word = _OUTWARD_WAITER if is_outward else _INWARD_WAITER
    return f"{partition} {word} {quote(promise_id, safe=_SAFE)}"


def waiting_promise(waiter: str) -> str | None:
    """The id of the promise in such a line; None for a waiter of another kind."""
    _, word, who = waiter.split(" ", 2)
    return unquote(who) if word in (_INWARD_WAITER, _OUTWARD_WAITER) else None


def is_outward_waiter(waiter: str) -> bool:
    """Whether such a line stands for an outward promise."""
    return waiter.split(" ", 2)[1] == _OUTWARD_WAITER


def attach(keys: Keyspace, id: PromiseId, *, waiter: str = "", idempotency_key: str = "") -> BatchItem[Created]:
    """Make a promise wait for an execution; NotFound if there is none. It is ``created`` if this key has made it."""
    to = route("create", keys, ("1",))
    words = f"\t\t\t\t\t\t{waiter}\t{NO_TRAITS}\t\t"
    item = to.script.item(id=id, words=words, args="", idempotency_key=idempotency_key)
    return BatchItem(to, item, partial(parse_created, "", None))


# -- requests


def request(kind: str, data: dict[str, Any]) -> bytes:
    """A request of the protocol of Resonate."""
    head = {"corrId": PID, "version": VERSION}
    return msgspec.json.encode({"kind": kind, "head": head, "data": data})


def answer_of(answer: Answer) -> tuple[int, dict[str, Any]]:
    """Status and data of an answer; UsageError if the request can never be done, StoreError if it cannot now."""
    data: Any = msgspec.json.decode(answer.body)["data"]
    if isinstance(data, dict):
        return answer.status, cast("dict[str, Any]", data)
    if answer.status in (404, 409, 422):
        return answer.status, {}
    raise UsageError(f"Resonate's rules refuse it: {data}") if answer.status == 400 else StoreError(str(data))


def promise_of(answer: Answer | DurasleepError) -> Promise | StoreError | None:
    """The promise in an answer; None if there is none, StoreError if that is not known now."""
    if isinstance(answer, DurasleepError):
        return answer if isinstance(answer, StoreError) else StoreError(str(answer))
    try:
        return answer_of(answer)[1].get("promise")
    except StoreError as error:
        return error
    except UsageError:  # no promise has such an id
        return None


def has_done(answer: Answer | DurasleepError) -> bool:
    """Whether a request was done."""
    return not isinstance(answer, DurasleepError) and answer.status == 200


def get(id: str) -> bytes:
    """Ask for a promise."""
    return request("promise.get", {"id": id})


def settle(id: str, state: str, value: dict[str, Any]) -> bytes:
    """Settle a promise."""
    return request("promise.settle", {"id": id, "state": state, "value": value})


def acquire(task: dict[str, Any]) -> bytes:
    """Hold the task of an inward promise; longer each time."""
    held_ms = min(HELD_MS << min(task["version"], 10), HELD_MS_MAX)
    return request("task.acquire", {"id": task["id"], "version": task["version"], "pid": PID, "ttl": held_ms})


def listen(id: str, group: str) -> bytes:
    """Let an outward promise tell durasleep how it has ended."""
    return request("promise.register_listener", {"awaited": id, "address": f"{OURS}{group}"})


def create_unsent(promise_id: str, id: PromiseId, incarnation: str) -> bytes:
    """Make an outward promise that no worker gets, for an execution that has ended before it had one."""
    tags = {"resonate:external": "true", ANSWERS: f"{incarnation} {id}~1"}
    return request("promise.create", {"id": promise_id, "timeoutAt": FOREVER_MS, "param": {}, "tags": tags})


def create_outward(id: str, group: str, param: dict[str, Any], *, deadline_ms: int, answers: str) -> bytes:
    """Make an outward promise, for any worker of a group; ``answers`` is its tag ``ANSWERS``."""
    tags = {
        "resonate:origin": id,
        "resonate:branch": id,
        "resonate:parent": id,
        "resonate:scope": "global",
        _TARGET: f"poll://any@{group}",
        ANSWERS: answers,
    }
    return request("promise.create", {"id": id, "timeoutAt": deadline_ms, "param": param, "tags": tags})
