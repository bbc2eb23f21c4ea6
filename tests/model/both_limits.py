"""Limits of the model and of a server, in the same terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durasleep.protocol.keys import LIMIT, Keyspace, L, V
from tests.model.gate import Limit, Numbers, Parked, Turn

BLOCKED = 10**12
LEVEL = 10**14
"""See ``gates.lua``."""


def written(numbers: Numbers) -> dict[str, str]:
    """The fields of a limit; empty for none."""
    rate = ("1", str(numbers.step_ms)) if numbers.step_ms else ("", "")
    return {
        L["per_key"]: _text(numbers.per_key),
        L["total"]: _text(numbers.total),
        L["rate"]: rate[0],
        L["window"]: rate[1],
        L["burst"]: _text(numbers.burst),
        L["hold"]: "l" if numbers.is_for_life else "",
        L["parked_max"]: _text(numbers.parked_max),
        L["overflow"]: numbers.overflow,
    }


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def as_compared(limit: Limit, now: int) -> Limit:
    """Without what only time takes away, and what is not read again."""
    return limit._replace(used_up=tuple([(key, at) for key, at in limit.used_up if at > now]))


def read_limits(client: Any, keys: Keyspace, now: int) -> dict[str, Limit]:
    """Every limit in a namespace, from all its keys."""
    found = client.hkeys(keys.functions)
    return {name[1:].decode(): _read(client, keys, name[1:].decode(), now) for name in found if name[:1] == b"\t"}


def _read(client: Any, keys: Keyspace, name: str, now: int) -> Limit:
    key = keys.limit(name)
    fields = _words(client.hgetall(key))
    counters = _words(client.hgetall(f"{key}:gate"))
    waiting = client.zrange(f"{key}:waiting", 0, -1, withscores=True)
    parked = {_rest(found, ":parked:"): client.zrange(found, 0, -1, withscores=True) for found in _all(client, key)}
    rates = {_rest(found, ":rate:"): float(client.get(found)) for found in _all(client, key, "rate")}
    limit = Limit(
        _numbers(fields),
        _numbers(dict(zip(CODE, fields[L["code"]].split("\t"), strict=True))),
        is_by_hand=L["by_hand"] in fields,
        is_paused=L["paused"] in fields,
        is_looked_through=V["cursor"] in counters,
        turn=float(counters.get(V["turn"], 0)),
        sequence=int(counters.get(V["sequence"], 0)),
        parked_count=int(counters.get(V["parked"], 0)),
        held=tuple(sorted(_words(client.hgetall(f"{key}:held")).items())),
        in_use=tuple(sorted((field[1:], int(count)) for field, count in counters.items() if field[0] == "=")),
        parked=tuple(sorted((its, tuple([_parked(*row) for row in rows])) for its, rows in parked.items())),
        waiting=tuple(sorted((its.decode(), _turn(score)) for its, score in waiting)),
        used_up=tuple(sorted((its, int(at)) for its, at in rates.items())),
    )
    return as_compared(limit, now)


CODE = tuple(
    L[name] for name in ("per_key", "total", "rate", "window", "burst", "hold", "parked_max", "overflow", "keyed")
)


def _numbers(fields: Mapping[str, str]) -> Numbers:
    def number(name: str) -> int | None:
        return int(fields[L[name]]) if fields.get(L[name]) else None

    return Numbers(
        number("per_key"),
        number("total"),
        number("window"),
        number("burst") or 1,
        fields.get(L["hold"]) == "l",
        LIMIT["parked_max"] if (most := number("parked_max")) is None else most,
        fields.get(L["overflow"], ""),
    )


def _parked(id: bytes, score: float) -> Parked:
    level, sequence = divmod(int(score), LEVEL)
    return Parked(level, sequence, id.decode())


def _turn(score: float) -> Turn:
    return Turn(score >= BLOCKED, round(score - BLOCKED if score >= BLOCKED else score, 3))


def _all(client: Any, key: str, kind: str = "parked") -> list[str]:
    return [name.decode() for name in client.scan_iter(match=f"{key}:{kind}:*", count=1000)]


def _rest(name: str, mark: str) -> str:
    return name.partition(mark)[2]


def _words(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}
