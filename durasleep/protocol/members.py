"""The members of a group: the workers that share the partitions of a namespace among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durasleep.protocol import script
from durasleep.protocol.command import Command, pairs, to_text
from durasleep.protocol.keys import members_key

Scores = dict[str, int]
"""The members, and when each has mustered last, in ms of the server's clock."""


def muster(namespace: str, group: str, consumer: str, *, gone: Mapping[str, int]) -> Command[Scores]:
    """Be a member from now on, and answer who is. Those ``gone`` are removed, if they still have this score."""
    lua = script.load("muster")
    removed = [text for name, score in gone.items() for text in (name, str(score))]
    key = members_key(namespace, group).encode()
    return Command(script.evalsha(lua, [key], [*lua.shared_args(consumer=consumer), *removed]), _parse, lua)


def leave(namespace: str, group: str, consumer: str) -> Command[int]:
    """Be no member any more."""
    return Command([b"ZREM", members_key(namespace, group).encode(), consumer.encode()], int)


def _parse(answer: list[Any]) -> Scores:
    return {to_text(name): int(float(score)) for name, score in pairs(answer)}
