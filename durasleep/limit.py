"""``Limit``: how many executions of some functions run at a time, and how many begin in a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from durasleep.errors import InvalidDuration, UsageError
from durasleep.model import check_name, duration_ms, shown

PARKED_MAX = 100_000  # of one key, by default and at most
COUNT_MAX = 1_000_000
WINDOW_MS_MAX = 30 * 86_400_000
_RATE = re.compile(r"(\d{1,9})/(\S+)")
_UNITS = ("ms", "s", "m", "h", "d", "w")

Hold = Literal["activation", "life"]
Overflow = Literal["refuse", "drop", "replace"]


def parse_rate(text: str) -> tuple[int, int]:
    """How many in how many ms: ``"10/s"``, ``"100/m"``, ``"5/10s"``. UsageError for any other text."""
    match = _RATE.fullmatch(text) if isinstance(text, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    window_ms = 0
    if match:
        unit = f"1{match[2]}" if match[2] in _UNITS else match[2]
        try:
            window_ms = duration_ms(unit)
        except InvalidDuration:
            window_ms = 0
    count = int(match[1]) if match else 0
    if not (1 <= count <= COUNT_MAX and 1 <= window_ms <= WINDOW_MS_MAX):
        raise UsageError(f"rate {shown(text)}: write 10/s, 100/m or 5/10s, with 1 to {COUNT_MAX:,} in at most 30 days")
    return count, window_ms


def check_count(what: str, value: int, *, least: int = 1, most: int = COUNT_MAX) -> int:
    """Return a number of executions, or raise UsageError."""
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{what} {shown(value)}: give a whole number from {least} to {most:,}")
    return value


def check_weight(value: float, key: str) -> float:
    """Return the weight of a key, or raise UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value <= 1000:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"the weight of key {key!r} is {shown(value)}: give a number from 0.001 to 1000")
    return value


@dataclass(frozen=True, slots=True, init=False)
class Limit:
    """How many executions of a function run at a time, and how many begin in a time::

        per_customer = Limit("per-customer", per_key=2, total=50, rate="10/s")

        @app.task(limit=per_customer, by=lambda order: order.customer)
        async def charge(order: Order) -> None: ...

    The others wait in Redis, where they hold no worker. Those of one key begin in the order of their priority and then
    of their coming; where a ``total`` is used up, the keys take turns. Several functions may share one limit.

    ``per_key`` of one key run at a time, ``total`` of all. ``rate`` of one key, or of all if the functions have no
    ``by``, begin in a time, such as ``"10/s"``, ``"100/m"`` or ``"5/10s"``. They begin at equal distances, and after a
    pause up to ``burst`` at once, by default 1. ``weight`` is a function of the key: a key of weight 2 has two turns
    where others have one. With ``hold="activation"`` a workflow that sleeps or waits counts for nothing; with
    ``"life"`` it counts from its first start to its end. At most ``parked_max`` of a key wait, by default 100,000;
    one more is refused with LimitFull, or with ``overflow="drop"`` it is not made, or with ``"replace"`` the one that
    has waited longest is canceled.

    In a namespace with several partitions a limit counts in each. An id there has its key in braces,
    ``{customer-7}order-42``, so that all of a key are together; ``total`` is divided among the partitions, and so is
    ``rate`` of functions without ``by``. Raises UsageError for numbers that cannot be.
    """

    name: str
    """Its name."""
    per_key: int | None
    """So many of one key run at a time; None for any number."""
    total: int | None
    """So many of all run at a time; None for any number."""
    rate: str | None
    """So many begin in a time; None for any number."""
    burst: int
    """So many begin at once after a pause, if there is a rate."""
    weight: Callable[[str], float] | None
    """The share of a key; None if all have the same."""
    hold: Hold
    """How long an execution counts: for an activation, or for its life."""
    parked_max: int
    """So many of a key may wait."""
    overflow: Overflow
    """What happens to one more."""

    def __init__(
        self,
        name: str,
        *,
        per_key: int | None = None,
        total: int | None = None,
        rate: str | None = None,
        burst: int = 1,
        weight: Callable[[str], float] | None = None,
        hold: Hold = "activation",
        parked_max: int = PARKED_MAX,
        overflow: Overflow = "refuse",
    ) -> None:
        check_name(name, "limit")
        if per_key is None and total is None and rate is None:
            raise UsageError(f"limit {name!r} limits nothing: give per_key=, total= or rate=")
        for what, value in (("per_key", per_key), ("total", total)):
            if value is not None:
                check_count(f"limit {name!r}: {what}", value)
        if rate is not None:
            parse_rate(rate)
        elif burst != 1:
            raise UsageError(f"limit {name!r}: burst needs a rate")
        check_count(f"limit {name!r}: burst", burst)
        check_count(f"limit {name!r}: parked_max", parked_max, least=0, most=PARKED_MAX)
        if weight is not None and not callable(weight):
            raise UsageError(f"limit {name!r}: weight is a function of the key")
        if hold not in ("activation", "life"):
            raise UsageError(f"limit {name!r}: hold {shown(hold)}: use 'activation' or 'life'")
        if overflow not in ("refuse", "drop", "replace"):
            raise UsageError(f"limit {name!r}: overflow {shown(overflow)}: use 'refuse', 'drop' or 'replace'")
        values = {
            "name": name,
            "per_key": per_key,
            "total": total,
            "rate": rate,
            "burst": burst,
            "weight": weight,
            "hold": hold,
            "parked_max": parked_max,
            "overflow": overflow,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def weight_of(self, key: str) -> str:
        """The weight of a ``key`` as a text, empty for 1; UsageError for one that cannot be."""
        if self.weight is None:
            return ""
        weight = check_weight(self.weight(key), key)
        return "" if weight == 1 else f"{weight:g}"

    def numbers(self, partition: int, partitions: int, *, is_keyed: bool) -> Mapping[str, str]:
        """Its part in one ``partition`` of so many ``partitions``, by the names of ``protocol.keys.L``. Its rate is for
        each key if it ``is_keyed``. UsageError for a number that is less than the partitions.
        """
        split = split_numbers(
            self.name,
            {
                "per_key": self.per_key,
                "total": self.total,
                "rate": self.rate,
                "burst": self.burst,
                "hold": self.hold,
                "parked_max": self.parked_max,
                "overflow": self.overflow,
            },
            partition,
            partitions,
            is_keyed=is_keyed,
        )
        return split | {"keyed": "1" if is_keyed else ""}


def split_numbers(
    name: str, numbers: Mapping[str, object], partition: int, partitions: int, *, is_keyed: bool
) -> dict[str, str]:
    """The part of some numbers of a limit in one of so many partitions; None is an empty text. UsageError if a number
    is less than the partitions.
    """
    split: dict[str, str] = {}
    for what, value in numbers.items():
        if what == "rate":
            split |= _split_rate(name, cast("str | None", value), partitions, is_keyed=is_keyed)
        elif what == "total" and value is not None:
            split[what] = str(_share(name, what, cast("int", value), partition, partitions))
        elif what == "burst":
            burst = cast("int", value)  # divided so that all together begin no more at once than with one partition
            split[what] = str(burst if is_keyed else 1 + _divide(burst - 1, partition, partitions))
        elif what == "hold":
            split[what] = "l" if value == "life" else ""
        else:
            split[what] = "" if value is None else str(value)
    return split


def _split_rate(name: str, rate: str | None, partitions: int, *, is_keyed: bool) -> dict[str, str]:
    if rate is None:
        return {"rate": "", "window": ""}
    count, window_ms = parse_rate(rate)
    if is_keyed or partitions == 1:
        return {"rate": str(count), "window": str(window_ms)}
    if count < partitions:
        raise _too_few(name, f"rate {rate}", partitions)
    return {"rate": f"{count / partitions:.6g}", "window": str(window_ms)}


def _share(name: str, what: str, value: int, partition: int, partitions: int) -> int:
    if value < partitions:
        raise _too_few(name, f"{what} {value}", partitions)
    return _divide(value, partition, partitions)


def _divide(value: int, partition: int, partitions: int) -> int:
    return value // partitions + (partition < value % partitions)


def _too_few(name: str, what: str, partitions: int) -> UsageError:
    return UsageError(
        f"limit {name!r}: {what} cannot be divided among {partitions} partitions: give at least {partitions}"
    )
