"""Questions to the server itself, and single numbers that are stored there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durasleep.protocol.command import Call, Command, Plan, to_text, unwrap
from durasleep.protocol.keys import Keyspace


def ping() -> Command[object]:
    return Command([b"PING"], bytes)


def read_info(section: str = "") -> Command[bytes]:
    """The server's INFO, all of it or one section."""
    return Command([b"INFO", section.encode()] if section else [b"INFO"], bytes)


def read_config() -> Command[dict[str, str]]:
    """All its settings, by their names."""

    def parse(reply: list[bytes]) -> dict[str, str]:
        return {to_text(name): to_text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}

    return Command([b"CONFIG", b"GET", b"*"], parse)


def read_user() -> Command[str]:
    """The user of our connection."""
    return Command([b"ACL", b"WHOAMI"], to_text)


def may_run(user: str, words: Sequence[str]) -> Command[bool]:
    """Whether a user may run a command, without running it; since Redis 7."""
    return Command([b"ACL", b"DRYRUN", user, *words], lambda reply: to_text(reply) == "OK")


def read_time() -> Command[int]:
    """The server's clock, in µs since 1970."""
    return Command([b"TIME"], lambda time: int(time[0]) * 1_000_000 + int(time[1]))


def now_ms(keys: Keyspace) -> Plan[int]:
    """The server's clock, as the scripts see it."""
    ask: list[Call] = [read_time().at(keys.slot)]
    if keys.movable_clock:
        ask.append(Command([b"GET", keys.clock.encode()], lambda kept: kept or b"0"))
    us, *moved = map(unwrap, (yield ask))
    now: int = us // 1000
    for kept in moved:
        now = int(kept[1:]) if kept.startswith(b"=") else now + int(kept)
    return now


def stop_clock(keys: Keyspace, instant_ms: int) -> Command[object]:
    """Make the clock of a test stand at an instant, in ms since 1970."""
    return Command([b"SET", keys.clock.encode(), b"=%d" % instant_ms], bool)


def read_client_id() -> Command[int]:
    """The id of this connection."""
    return Command([b"CLIENT", b"ID"], int)


def unblock(client_id: int) -> Command[int]:
    """End the blocking read of a connection, as if its time were over."""
    return Command([b"CLIENT", b"UNBLOCK", b"%d" % client_id], int)


def has_client(id: str) -> Command[bool]:
    """Whether the server lists a connection with this id, among those it shows."""

    def parse(reply: object) -> bool:
        return isinstance(reply, bytes) and f"id={id} ".encode() in reply

    return Command([b"CLIENT", b"LIST", b"ID", id.encode()], parse)


def wait_for_replicas(replicas: int, timeout_s: float) -> Command[Any]:
    """Wait until this many replicas have received the earlier writes of this connection."""
    return Command([b"WAIT", str(replicas), str(round(timeout_s * 1000))], int)


def wait_for_disk(replicas: int, timeout_s: float) -> Command[Any]:
    """The same, and until they are on disk, here and there."""
    return Command([b"WAITAOF", b"1", str(replicas), str(round(timeout_s * 1000))], list[Any])


def scan(pattern: str, cursor: bytes, *, count: int) -> Command[tuple[bytes, list[bytes]]]:
    """A page of the keys that match a pattern: the next cursor, b"0" at the end, and names."""
    return Command([b"SCAN", cursor, b"MATCH", pattern.encode(), b"COUNT", b"%d" % count], tuple[bytes, list[bytes]])


def delete(names: Sequence[bytes]) -> Command[int]:
    return Command([b"DEL", *names], int)


def exists(name: str) -> Command[bool]:
    return Command([b"EXISTS", name.encode()], bool)


def read_number(key: str) -> Command[int | None]:
    """A whole number that is stored under a key, or None."""
    return Command([b"GET", key.encode()], lambda value: None if value is None else int(value))


def keep_number(key: str, number: int, *, ttl_s: float) -> Command[bool]:
    """Store a number for a while."""
    return Command(
        [b"SET", key.encode(), str(number), b"PX", str(round(ttl_s * 1000))], lambda reply: reply is not None
    )
