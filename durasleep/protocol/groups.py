"""Groups that take no executions: each partition says so by a key of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from durasleep.protocol.command import Command, Plan, to_text
from durasleep.protocol.keys import G, Keyspace

PAUSE = "pause"
"""The feature that a worker reports if it follows the pause of its group."""


@dataclass(frozen=True, slots=True)
class Pause:
    """That a group is paused."""

    since_ms: int
    """Since when, in ms since 1970, by the server's clock."""
    by: str
    """Who has paused it."""


def pause(keys: Keyspace, group: str, now_ms: int, by: str) -> list[Command[bool]]:
    """Pause a group; the first answer says whether it was not paused before. Then it stays as it was."""
    return [
        Command(["HSETNX", keys.group(group), G["since"], str(now_ms)], bool),
        Command(["HSETNX", keys.group(group), G["by"], by], bool),
    ]


def resume(keys: Keyspace, group: str) -> Command[bool]:
    """Let it go on; returns whether it was paused."""
    return Command(["DEL", keys.group(group)], bool)


def read_pause(keys: Keyspace, group: str) -> Command[Pause | None]:
    """Whether it is paused."""

    def parse(values: list[bytes | None]) -> Pause | None:
        since, by = values
        return Pause(int(since), to_text(by)) if since is not None and since.isdigit() else None

    return Command(["HMGET", keys.group(group), G["since"], G["by"]], parse)


def read_pauses(keyspaces: Iterable[Keyspace], names: Iterable[str]) -> Plan[dict[str, Pause]]:
    """Those of some groups that are paused in any partition, with the first pause of each."""
    asked = [(name, keys) for name in sorted(set(names)) for keys in keyspaces]
    answers = (yield [read_pause(keys, name) for name, keys in asked]) if asked else []
    found: dict[str, Pause] = {}
    for (name, _), answer in zip(asked, answers, strict=True):
        if isinstance(answer, Pause):  # a key of another type pauses nothing
            found[name] = min(answer, found.get(name, answer), key=attrgetter("since_ms"))
    return found
