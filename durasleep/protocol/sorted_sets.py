"""The sorted sets: timers, workers, and executions that are halted or being closed, each by an instant in ms."""

from __future__ import annotations

from typing import Any

from durasleep.protocol.command import Command, pairs, to_text

Members = list[tuple[str, int]]
"""Names with their scores, lowest first."""


def list_members(key: str, *, since: bytes = b"-inf", until: bytes = b"+inf", count: int = -1) -> Command[Members]:
    """All members, or the first ones, with scores from ``since`` up to ``until``."""
    return Command([b"ZRANGEBYSCORE", key.encode(), since, until, *_part(0, count)], _members)


def read_page(key: str, since: bytes, offset: int, *, count: int) -> Command[list[tuple[bytes, bytes]]]:
    """Some members with a score of at least ``since``, unchanged, so that the next page can go on from a score."""
    return Command([b"ZRANGEBYSCORE", key.encode(), since, b"+inf", *_part(offset, count)], pairs)


def add_member(key: str, name: str, at_ms: int) -> Command[object]:
    return Command([b"ZADD", key.encode(), str(at_ms), name.encode()], bool)


def remove_member(key: str, name: str) -> Command[object]:
    return Command([b"ZREM", key.encode(), name.encode()], bool)


def count_members(key: str) -> Command[int]:
    return Command([b"ZCARD", key.encode()], int)


def count_between(key: str, since: bytes, until: bytes) -> Command[int]:
    """How many members have a score from ``since`` up to ``until``."""
    return Command([b"ZCOUNT", key.encode(), since, until], int)


def scan_members(key: bytes, cursor: bytes, *, count: int) -> Command[tuple[bytes, list[bytes]]]:
    """A page of members in no order: the next cursor, b"0" at the end, and names."""

    def parse(reply: list[Any]) -> tuple[bytes, list[bytes]]:
        after, flat = reply
        return after, flat[::2]

    return Command([b"ZSCAN", key, cursor, b"COUNT", b"%d" % count], parse)


def _part(offset: int, count: int) -> list[bytes]:
    return [b"WITHSCORES", b"LIMIT", b"%d" % offset, b"%d" % count]


def _members(flat: list[Any]) -> Members:
    return [(to_text(name), int(float(score))) for name, score in pairs(flat)]
