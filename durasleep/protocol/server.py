"""What is asked of the server itself, and numbers kept by themselves."""

from __future__ import annotations

from durasleep.protocol.command import Call, Command, Plan, value_of
from durasleep.protocol.keys import Keyspace


def read_number(key: str) -> Command[int | None]:
    """A whole number kept by itself, or None."""
    return Command([b"GET", key.encode()], lambda value: None if value is None else int(value))


def keep_number(key: str, number: int, *, ttl_s: float) -> Command[bool]:
    """Keep one for a while."""
    return Command(
        [b"SET", key.encode(), str(number), b"PX", str(round(ttl_s * 1000))], lambda reply: reply is not None
    )


def now_ms(keys: Keyspace) -> Plan[int]:
    """The server's clock, as the scripts see it."""
    ask: list[Call] = [Command([b"TIME"], lambda time: int(time[0]) * 1000 + int(time[1]) // 1000)]
    if keys.movable_clock:
        ask.append(Command([b"GET", keys.clock.encode()], lambda kept: kept or b"0"))
    now, *moved = map(value_of, (yield ask))
    for kept in moved:
        now = int(kept[1:]) if kept.startswith(b"=") else now + int(kept)
    return now
