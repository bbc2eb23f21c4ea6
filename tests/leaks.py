"""Finds the keys of a namespace that have no owner and no TTL, after a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from durasleep.cron import NEVER
from durasleep.model import KEPT_FOR_EVER, owner_of, root_of
from durasleep.protocol.keys import LIMIT, F, S, meta_key
from durasleep.protocol.partitions import PARTITIONS_MAX

_SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it was found. ``fields``: those of a hash; ``items``: members of a set, or ids in a stream."""

    ttl_ms: int | None
    fields: Mapping[str, str]
    items: tuple[str, ...]


class Partition:
    """All keys of one partition, by kind and name: ``("promise", "order-42")``, ``("timers", "")``."""

    def __init__(self, keys: Mapping[tuple[str, str], Key]) -> None:
        self.keys = keys

    def items(self, kind: str) -> tuple[str, ...]:
        key = self.keys.get((kind, ""))
        return key.items if key else ()

    def exists(self, id: str) -> bool:
        """Whether there is such a promise: a hash, or an entry in the journal of its owner."""
        if ("promise", id) in self.keys:
            return True
        owner = owner_of(id)
        holder = owner and self.keys.get(("promise", owner[0]))
        return bool(owner and holder and owner[1] in holder.fields)

    def is_pending(self, id: str) -> bool:
        key = self.keys.get(("promise", id))
        return key is not None and F["incarnation"] in key.fields and F["state"] not in key.fields

    def is_untold(self, id: str) -> bool:
        """Whether it has ended, waiters of other partitions have not heard of it, and a timer tells them."""
        promise = self.keys.get(("promise", id))
        waiters = promise.fields.get(F["waiters"], "") if promise and not self.is_pending(id) else ""
        listed = self.keys[("waiters", id)].items if ("waiters", id) in self.keys else tuple(waiters.split("\n"))
        return any(line.startswith("x") for line in listed) and f"{id}~tell" in self.items("timers")

    def asks(self, entry_id: str) -> bool:
        """Whether an entry waits for another partition."""
        owner = owner_of(entry_id)
        return bool(owner and self.is_pending(owner[0]) and self.exists(entry_id))

    def is_kept_for_ever(self, id: str) -> bool:
        """Whether that is the retention of members of its family that have ended."""
        root = self.keys.get(("promise", root_of(id)))
        return root is not None and root.fields.get(F["retention"]) == str(KEPT_FOR_EVER)

    def is_closing(self, id: str) -> bool:
        """Whether the firer will handle it: this promise or one above it waits in ``closing``."""
        closing = self.items("closing")
        while id not in closing and f"{id}~run" not in closing:
            owner = owner_of(id)
            if owner is None:
                return False
            id = owner[0]
        return True


def leaks(partition: Partition) -> list[str]:
    """One line for each key that nobody will ever remove, or that expires while it is needed."""
    found: list[str] = []
    for (kind, name), key in sorted(partition.keys.items()):
        rule = _RULES.get(kind)
        wrong = rule(partition, name, key) if rule else "no such key is known"
        if wrong:
            found.append(f"{kind}:{name}: {wrong}" if name else f"{kind}: {wrong}")
    return found


def _promise(all: Partition, name: str, key: Key) -> str:
    if F["incarnation"] not in key.fields:
        return "no incarnation, so not a promise"
    if all.is_pending(name):
        return "" if key.ttl_ms is None else "pending, but expires"
    if key.ttl_ms is not None or all.is_pending(root_of(name)) or all.is_closing(name) or all.is_kept_for_ever(name):
        return ""
    if all.is_untold(root_of(name)):
        return ""
    return "settled, its root is not pending, and it has no TTL"


def _view(all: Partition, name: str, key: Key) -> str:
    """What an execution publishes lives as long as that."""
    owner = all.keys.get(("promise", name))
    if owner is None:
        return "published by nobody" if key.ttl_ms is None else ""
    if "v" not in owner.fields.get(F["extras"], ""):
        return "its execution does not refer to it"
    if (owner.ttl_ms is None) != (key.ttl_ms is None):
        return "its execution expires and it does not" if owner.ttl_ms is not None else "expires before its execution"
    return ""


def _timers(all: Partition, name: str, key: Key) -> str:
    return "; ".join(wrong for member in key.items if (wrong := _timer(all, member)))


def _timer(all: Partition, member: str) -> str:
    owner, _, what = member.rpartition("~")
    if what == "cron":
        return "" if ("schedule", owner) in all.keys else f"{member} has no schedule"
    if what == "ask":
        return "" if all.asks(owner) or all.is_closing(owner) else f"{member} has no entry that waits"
    if what in ("gate", "gates"):
        limit, _, limit_key = owner.partition("/")
        is_needed = what == "gates" or ("limit", f"{limit}:parked:{limit_key}") in all.keys
        return "" if is_needed and ("limit", limit) in all.keys else f"{member} opens no gate"
    if what == "mail":
        return "" if ("mail", owner) in all.keys else f"{member} has no mailbox"
    if what == "tell":
        return "" if all.is_untold(owner) or all.is_closing(owner) else f"{member} has nobody to tell"
    return "" if all.is_pending(owner) or all.is_closing(owner) else f"{member} has no pending owner"


def _queue(all: Partition, name: str, key: Key) -> str:
    lost = [id for id in key.items if not all.is_pending(id)]
    return f"entries for {', '.join(lost)}, which are not pending" if lost else ""


def _expiring(all: Partition, name: str, key: Key) -> str:
    return "no TTL" if key.ttl_ms is None else ""


def _known_promises(all: Partition, name: str, key: Key) -> str:
    known = [id for id in key.items if all.exists(id) or ("run", id.removesuffix("~run")) in all.keys]
    lost = [id for id in key.items if id not in known and not id.startswith(("timers:", "closing:"))]
    return f"members without a promise: {', '.join(lost)}" if lost else ""


def _waiters(all: Partition, name: str, key: Key) -> str:
    promise = all.keys.get(("promise", name))
    return "" if promise and promise.fields.get(F["waiters"]) == "+" else "nobody knows who waits here"


def _mail(all: Partition, name: str, key: Key) -> str:
    promise = all.keys.get(("promise", name))
    if promise is None or not all.is_pending(name) or "m" not in promise.fields.get(F["extras"], ""):
        return "" if f"{name}~mail" in all.items("timers") else _expiring(all, name, key)
    return "" if key.ttl_ms is None else "a mailbox in use, but it expires"


def _run(all: Partition, name: str, key: Key) -> str:
    return "" if f"{name}~run" in all.items("closing") else "a run that nobody closes"


def _lasting(all: Partition, name: str, key: Key) -> str:
    return ""  # as long as its namespace


def _at_most(items_max: int) -> Callable[[Partition, str, Key], str]:
    def rule(all: Partition, name: str, key: Key) -> str:
        return f"{len(key.items)} items, more than {items_max}" if len(key.items) > items_max else ""

    return rule


def _of_users(all: Partition, name: str, key: Key) -> str:
    return ""  # they decide how long it lives


def _schedule(all: Partition, name: str, key: Key) -> str:
    fields = key.fields
    if fields.get(S["cron"], "").startswith("= "):
        return "" if name in all.items("schedules") else "it is not listed"
    is_over = fields.get(S["due"]) == str(NEVER)
    return "" if is_over or f"{name}~cron" in all.items("timers") else "no timer will ever start it"


def _schedules(all: Partition, name: str, key: Key) -> str:
    lost = [one for one in key.items if ("schedule", one) not in all.keys]
    return f"schedules that are gone: {', '.join(lost)}" if lost else ""


def _limit(all: Partition, name: str, key: Key) -> str:
    _, _, part = name.partition(":")
    kind, _, _ = part.partition(":")
    if kind == "rate":
        return _expiring(all, name, key)
    ids = key.items if kind == "parked" else key.fields if kind == "held" else ()
    lost = [id for id in ids if not all.is_pending(id)]
    return f"{', '.join(lost)} are not pending" if lost else ""


def _of_others(all: Partition, name: str, key: Key) -> str:
    """Of Resonate's protocol: ``fsck`` knows what removes each of them."""
    return "" if name.partition(":")[0] in _OF_OTHERS else "no such key is known"


_OF_OTHERS = ("promise", "branch", "waiters", "timers", "queue", "inbox", "settled", "schedule", "wake")

_RULES: dict[str, Callable[[Partition, str, Key], str]] = {
    "promise": _promise,
    "waiters": _waiters,
    "view": _view,
    "run": _run,
    "mail": _mail,
    "timers": _timers,
    "queue": _queue,
    "inbox": _expiring,
    "stats": _expiring,
    "repeat": _expiring,
    "worker": _expiring,
    "schedule": _schedule,
    "limit": _limit,
    "functions": _lasting,
    "index": _lasting,
    "schedules": _schedules,
    "closing": _known_promises,
    "halted": _known_promises,
    "wake": _at_most(1),
    "workers": _at_most(LIMIT["workers_max"]),
    "clock-held": _expiring,
    "clock-released": _expiring,
    "recent": _at_most(2 * LIMIT["recent_max"]),  # trimmed by whole nodes
    "failed": _at_most(2 * LIMIT["recent_max"]),
    "audit": _at_most(2 * LIMIT["audit_max"]),
    "group": _lasting,
    "meta": _lasting,
    "members": _expiring,
    "own": _of_users,
    "r": _of_others,
}


def read(client: redis.Redis, namespace: str) -> tuple[list[bytes], dict[str, Partition]]:
    """Every key of a namespace, and its partitions by number; what belongs to none is under an empty one."""
    scan = cast("Any", client.scan_iter)
    names: list[bytes] = [
        *scan(match=f"{{{namespace}:*", count=_SCAN_COUNT),
        *scan(match=f"{{{namespace}}}:*", count=_SCAN_COUNT),
    ]
    partitions: dict[str, dict[tuple[str, str], Key]] = {}
    for name, key in _read_keys(client, names):
        tag, _, rest = name.decode(errors="replace").partition("}:")
        _, _, partition = tag.partition(":")
        kind, _, subject = rest.partition(":")
        partitions.setdefault(partition, {})[kind, subject] = key
    return names, {number: Partition(keys) for number, keys in partitions.items()}


def count(client: redis.Redis, namespace: str) -> int:
    """How many partitions a namespace has; one if a test has broken what says it."""
    try:
        found = int(cast("Any", client).hget(meta_key(namespace), "partitions") or 1)
    except (ValueError, redis.ResponseError):
        return 1
    return found if 1 <= found <= PARTITIONS_MAX else 1


def _read_keys(client: Any, names: Sequence[bytes]) -> Iterator[tuple[bytes, Key]]:
    """Those that have not expired since the scan; in two exchanges, for every test asks this of all it has left."""
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.pttl(name)
        pipe.type(name)
    answers = pipe.execute()
    found: list[tuple[bytes, int, bytes]] = []
    for name, ttl_ms, type in zip(names, answers[::2], answers[1::2], strict=True):
        if ttl_ms == -2 or type == b"none":
            continue
        found.append((name, ttl_ms, type))
        match type:
            case b"hash":
                pipe.hgetall(name)
            case b"zset":
                pipe.zrange(name, 0, -1)
            case b"stream":
                pipe.xrange(name)
            case b"set":
                pipe.smembers(name)
            case _:
                pipe.ping()  # what else there may be is not read
    for (name, ttl_ms, type), held in zip(found, pipe.execute(), strict=True):
        fields: dict[str, str] = {}
        items: list[bytes] = []
        match type:
            case b"hash":
                fields = {_text(field): _text(value) for field, value in held.items()}
                if not fields:  # there are no empty hashes: since it was asked for its type
                    continue
            case b"zset" | b"set":
                items = list(held)
            case b"stream":
                items = [entry.get(b"i", b"") for _, entry in held]
            case other:
                fields = {"type": _text(other)}
        yield name, Key(ttl_ms if ttl_ms >= 0 else None, fields, tuple(map(_text, items)))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
