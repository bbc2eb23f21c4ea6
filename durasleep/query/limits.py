"""Limits as people see and change them: one of each name, whatever the number of partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from durasleep.errors import DurasleepError, NotAllowed, NotFound, UsageError
from durasleep.limit import split_numbers
from durasleep.protocol import limits
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keys import L
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.limits import Change, Gate

_WEIGHT = "w:"
_COMPONENTS = 4  # answers for each gate


@dataclass(frozen=True, slots=True)
class LimitSummary:
    """A limit, and what waits at its gate."""

    name: str
    """Its name."""
    per_key: int | None
    """So many of one key run at a time; None for any number."""
    total: int | None
    """So many of all run at a time."""
    rate: str | None
    """So many begin in a time, such as ``10/s``: of each key if ``is_keyed``, else of all."""
    burst: int
    """So many may begin at once after a pause."""
    hold: str
    """``activation``, or ``life``."""
    parked_max: int
    """So many of a key may wait."""
    overflow: str
    """What happens to one more: ``refuse``, ``drop`` or ``replace``."""
    is_keyed: bool
    """Whether it counts by key."""
    weights: Mapping[str, float]
    """The weights of keys that a person has set."""
    is_by_hand: bool
    """Whether a person has set its numbers."""
    paused_at_ms: int | None
    """Since when it is paused, in ms since 1970; None if it is not."""
    in_use: int
    """Executions that hold a slot."""
    parked: int
    """Executions that wait."""
    keys: int
    """For how many keys some wait."""


def list_limits(keyspaces: Keyspaces) -> Plan[list[LimitSummary]]:
    """All limits of a namespace, by name."""
    answers = yield [limits.list_limits(keys) for keys in keyspaces]
    names = sorted({name for answer in answers if not isinstance(answer, DurasleepError) for name in answer})
    found: list[LimitSummary] = []
    for name in names:
        with suppress(NotFound):  # it is damaged, as fsck says: others are shown
            found.append((yield from read_limit(keyspaces, name)))
    return found


def read_limit(keyspaces: Keyspaces, name: str) -> Plan[LimitSummary]:
    """One limit; NotFound if there is none."""
    calls = [call for keys in keyspaces for call in limits.read_gate(keys, name)]
    answers: list[Any] = yield calls
    gates: list[Gate] = []
    for start in range(0, len(answers), _COMPONENTS):
        part = answers[start : start + _COMPONENTS]
        if not any(isinstance(one, DurasleepError) for one in part) and part[0]:  # else its node is silent
            gates.append(Gate(*part))
    if not gates:
        raise NotFound(f"there is no limit {name}")
    return _summary(name, gates)


def _summary(name: str, gates: Sequence[Gate]) -> LimitSummary:
    fields = gates[0].fields
    is_keyed = bool(fields.get(L["keyed"]))
    paused = [int(gate.fields[L["paused"]]) for gate in gates if L["paused"] in gate.fields]
    return LimitSummary(
        name=name,
        per_key=_whole(fields.get(L["per_key"])),
        total=sum(int(gate.fields[L["total"]]) for gate in gates) if L["total"] in fields else None,
        rate=_rate(gates, is_keyed=is_keyed),
        burst=_burst(gates, is_keyed=is_keyed),
        hold="life" if fields.get(L["hold"]) else "activation",
        parked_max=int(fields.get(L["parked_max"], 0)),
        overflow=fields.get(L["overflow"], "refuse"),
        is_keyed=is_keyed,
        weights={
            field.removeprefix(_WEIGHT): float(value) for field, value in fields.items() if field.startswith(_WEIGHT)
        },
        is_by_hand=L["by_hand"] in fields,
        paused_at_ms=min(paused) if paused else None,
        in_use=sum(gate.in_use for gate in gates),
        parked=sum(gate.parked for gate in gates),
        keys=sum(gate.keys for gate in gates),
    )


def _burst(gates: Sequence[Gate], *, is_keyed: bool) -> int:
    """Each partition has its part of what goes beyond one."""
    parts = [int(gate.fields.get(L["burst"], 1)) for gate in gates]
    return parts[0] if is_keyed else 1 + sum(part - 1 for part in parts)


def _whole(value: str | None) -> int | None:
    return int(value) if value else None


def _rate(gates: Sequence[Gate], *, is_keyed: bool) -> str | None:
    fields = gates[0].fields
    if not fields.get(L["rate"]):
        return None
    count = float(fields[L["rate"]]) if is_keyed else sum(float(gate.fields[L["rate"]]) for gate in gates)
    window_ms = int(fields[L["window"]])
    window = {1000: "s", 60_000: "m", 3_600_000: "h", 86_400_000: "d"}.get(window_ms)
    if window is None:
        window = f"{window_ms // 1000}s" if window_ms % 1000 == 0 else f"{window_ms}ms"
    return f"{round(count):g}/{window}"


def set_limit(
    keyspaces: Keyspaces, name: str, numbers: Mapping[str, object], weights: Mapping[str, float | None]
) -> Plan[None]:
    """Change some numbers of a limit by hand, and the weights of keys; None is none. NotFound if there is no such
    limit, UsageError if nothing is changed, or if a number cannot be divided among the partitions.
    """
    if not numbers and not weights:
        raise UsageError(f"limit {name!r}: say what to change")
    known = yield from read_limit(keyspaces, name)
    if numbers.get("burst", 1) != 1 and not numbers.get("rate", known.rate):
        raise UsageError(f"limit {name!r}: burst needs a rate")
    count = len(keyspaces)
    shares = [split_numbers(name, numbers, keys.partition, count, is_keyed=known.is_keyed) for keys in keyspaces]
    words = {f"{_WEIGHT}{key}": "" if weight is None else f"{weight:g}" for key, weight in weights.items()}
    changes = [{L[what]: value for what, value in share.items()} | words for share in shares]
    answers = yield [limits.set_limit(keys, name, change) for keys, change in zip(keyspaces, changes, strict=True)]
    for answer in answers:
        unwrap(answer)


def change_limit(keyspaces: Keyspaces, name: str, change: Change) -> Plan[bool]:
    """Pause, resume or reset a limit in all partitions; false if nothing has changed. NotFound if there is none."""
    answers = yield [limits.change_limit(keys, name, change) for keys in keyspaces]
    changed = [unwrap(answer) for answer in answers]  # each may be an error
    return any(changed)


def delete_limit(keyspaces: Keyspaces, name: str) -> Plan[None]:
    """Remove a limit that no execution has, in all partitions. NotFound if there is none, NotAllowed if it is used."""
    known = yield from read_limit(keyspaces, name)
    if count := known.in_use + known.parked:
        raise NotAllowed(f"limit {name} is in use: {count:,} executions hold or wait")
    answers = yield [limits.change_limit(keys, name, "delete") for keys in keyspaces]
    for answer in answers:
        if not isinstance(answer, NotFound):  # it was half deleted before
            unwrap(answer)
