"""What a server's configuration means for the data in it, in words. It only reads.

The facts come from INFO, CONFIG GET and ACL DRYRUN, if the server has them and our rights allow them. Facts that cannot
be read are named. Sources: the Redis documentation of persistence, eviction, replication and ACL.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from durasleep import humanize
from durasleep.errors import DurasleepError
from durasleep.protocol import rights, server
from durasleep.protocol.command import Plan, to_text
from durasleep.protocol.keys import Keyspace

T = TypeVar("T")

_PINGS = 50
_SLOW_PING_MS = 5.0  # a step is two round trips or more
_CLOCK_OFF_S = 1.0
_CLOCK_WRONG_S = 60.0
ROOM_WARNED, ROOM_DANGER = 0.8, 0.95  # of the allowed memory
_SYSTEM_ROOM_WARNED = 0.6  # of the machine's memory, if there is no limit: saving may need as much again
_LAG_WARNED_S = 10


class Level(StrEnum):
    """How bad it is."""

    GOOD = "good"
    WARNING = "warning"
    DANGER = "danger"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One finding about the server."""

    level: Level
    """How bad it is: ``good``, ``warning`` or ``danger``."""
    subject: str
    """Its subject: ``eviction``, ``persistence``, ``memory``, ..."""
    text: str
    """The fact, and what it means for the data."""
    advice: str = ""
    """What to change."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says about itself; None or empty if it does not say."""

    info: Mapping[str, str]
    config: Mapping[str, str]
    """Empty if CONFIG is not allowed, as on managed servers."""
    missing_rights: tuple[str, ...] | None
    """Commands that our user may not use; None if the server cannot tell."""
    clock_off_s: float
    """The least by which the server's clock is ahead of ours."""
    pings_ms: tuple[float, ...]


def collect_facts(keys: Keyspace, slot: int | None = None) -> Plan[Facts]:
    """Ask the server, in a cluster the node of a ``slot``; takes some tens of round trips."""
    is_cluster, at = slot is not None, keys.slot if slot is None else slot
    asked_at = time.time()
    [info, config, whoami, server_time] = yield [
        server.read_info().at(at),
        server.read_config().at(at),
        server.read_user().at(at),
        server.read_time().map(lambda us: us / 1e6).at(at),
    ]
    answered_at = time.time()
    off = 0.0
    if not isinstance(server_time, DurasleepError):
        off = max(0.0, server_time - answered_at) or min(0.0, server_time - asked_at)
    pings: list[float] = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        yield [server.ping().at(at)]
        pings.append((time.perf_counter() - began) * 1000)
    missing = None
    if not isinstance(whoami, DurasleepError):
        missing = yield from rights.missing_rights(keys, whoami, at=at, is_cluster=is_cluster)
    return Facts(
        info={} if isinstance(info, DurasleepError) else _info_of(to_text(info)),
        config={} if isinstance(config, DurasleepError) else config,
        missing_rights=missing,
        clock_off_s=off,
        pings_ms=tuple(pings),
    )


def _info_of(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


# -- what it means -----------------------------------------------------------


def diagnose(facts: Facts) -> list[Diagnosis]:
    """What the facts mean, the worst first."""
    found = [*_server(facts), *_eviction(facts), *_persistence(facts), *_replicas(facts), *_memory(facts)]
    found += [*_clock(facts), *_latency(facts), *_rights(facts)]
    return worst_first(found)


def worst_first(found: Iterable[Diagnosis]) -> list[Diagnosis]:
    """In the order in which people should read them."""
    order = list(Level)
    return sorted(found, key=lambda one: -order.index(one.level))


def _policy_of(facts: Facts) -> str:
    """The eviction policy, "" if it is not known."""
    return facts.config.get("maxmemory-policy") or facts.info.get("maxmemory_policy", "")


def _can_drop_pending(policy: str) -> bool:
    """Whether a policy may remove pending executions. They have no TTL, so policies for volatile keys cannot."""
    return policy.startswith("allkeys-")


def eviction(info: bytes) -> str:
    """From INFO: the policy by which this server, with its limited memory, may drop pending executions; else ""."""
    known = _info_of(to_text(info))
    policy = known.get("maxmemory_policy", "")
    return policy if _can_drop_pending(policy) and known.get("maxmemory", "0") != "0" else ""


def _server(facts: Facts) -> Iterator[Diagnosis]:
    info = facts.info
    if not info:
        text = "the server does not say what it is (fakeredis, or INFO is forbidden): it cannot be checked further"
        yield Diagnosis(Level.WARNING, "server", text)
        return
    if "dragonfly_version" in info:
        yield Diagnosis(
            Level.DANGER,
            "server",
            f"Dragonfly {info['dragonfly_version']}: its scripts may only use keys that are declared",
            "start it with --default_lua_flags=allow-undeclared-keys, and test your workflows: we do not test there",
        )
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info.get('redis_version', '?')}"
    up_ms = max(1, int(info.get("uptime_in_seconds", 0))) * 1000
    yield Diagnosis(Level.GOOD, "server", f"{name}, up for {humanize.describe_ms(up_ms)}")
    if info.get("loading") == "1":
        yield Diagnosis(Level.WARNING, "server", "it is still loading its data: calls wait until that is done")


def _eviction(facts: Facts) -> Iterator[Diagnosis]:
    policy = _policy_of(facts)
    is_bounded = facts.info.get("maxmemory", facts.config.get("maxmemory", "0")) != "0"
    if not policy:
        yield Diagnosis(Level.WARNING, "eviction", "the eviction policy cannot be seen", "it must be noeviction")
    elif policy == "noeviction":
        yield Diagnosis(
            Level.GOOD, "eviction", "noeviction: a full server refuses new calls; running executions may complete"
        )
    elif _can_drop_pending(policy):
        when = "when memory is full" if is_bounded else "as soon as somebody sets maxmemory"
        yield Diagnosis(
            Level.DANGER if is_bounded else Level.WARNING,
            "eviction",
            f"{policy}: {when}, sleeping workflows vanish without a trace",
            "set maxmemory-policy noeviction",
        )
    else:
        yield Diagnosis(
            Level.WARNING,
            "eviction",
            f"{policy}: pending executions stay, but results may be dropped early, and a repeated id then runs again",
            "set maxmemory-policy noeviction",
        )


def _persistence(facts: Facts) -> Iterator[Diagnosis]:
    info, config = facts.info, facts.config
    if not info:
        return
    if info.get("aof_enabled") == "1":
        fsync = config.get("appendfsync", "")
        match fsync:
            case "always":
                yield Diagnosis(Level.GOOD, "persistence", "append-only file, fsync always: a confirmed write is kept")
            case "everysec" | "":
                unseen = "" if fsync else " (appendfsync cannot be seen; this is its default)"
                yield Diagnosis(
                    Level.GOOD,
                    "persistence",
                    f"append-only file, fsync every second{unseen}: when the machine fails, the last second or two are "
                    "lost: steps of that time run again, and calls made in it are unknown",
                    "appendfsync always keeps them, but makes every write slower",
                )
            case _:
                yield Diagnosis(
                    Level.WARNING,
                    "persistence",
                    "append-only file, fsync left to the system: when the machine fails, half a minute may be lost",
                    "set appendfsync everysec",
                )
        if info.get("aof_last_write_status", "ok") != "ok":
            text = "the append-only file cannot be written: new writes are not kept"
            yield Diagnosis(Level.DANGER, "persistence", text, "look at the disk and the server's log")
    elif config.get("save", "?") == "":
        yield Diagnosis(
            Level.DANGER,
            "persistence",
            "nothing is written to disk: a restart loses every sleeping workflow",
            "set appendonly yes",
        )
    else:
        yield Diagnosis(
            Level.WARNING,
            "persistence",
            "snapshots only: a crash loses everything since the last one, minutes or an hour ago",
            "set appendonly yes",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        text = "the last snapshot failed: with stop-writes-on-bgsave-error, writes are refused"
        yield Diagnosis(Level.WARNING, "persistence", text, "look at the disk and the server's log")


NO_REPLICA = Diagnosis(
    Level.GOOD,
    "replicas",
    "no replica: if this machine is lost, its data is lost, too",
    "add a replica; min-replicas-to-write 1 refuses writes without it",
)


def _replicas(facts: Facts) -> Iterator[Diagnosis]:
    info = facts.info
    if info.get("role") == "slave":
        yield Diagnosis(
            Level.DANGER, "replicas", "this is a replica: it takes no writes", "connect to the primary, or by Sentinel"
        )
        return
    count = int(info.get("connected_slaves", "0") or 0)
    wanted = int(facts.config.get("min-replicas-to-write", "0") or 0)
    following = int(info.get("min_slaves_good_slaves", count) or 0)
    if following < wanted:
        text = f"min-replicas-to-write is {wanted}, and {following} of them follow: every write is refused (NOREPLICAS)"
        yield Diagnosis(Level.DANGER, "replicas", text, "bring the replicas back, or set min-replicas-to-write 0")
    if info and count == 0:
        yield NO_REPLICA
    for number in range(count):
        parts = [part.partition("=") for part in info.get(f"slave{number}", "").split(",")]
        fields = {name: value for name, _, value in parts}
        lag_s = int(fields.get("lag", "0") or 0)
        name = f"replica {fields.get('ip', '?')}:{fields.get('port', '?')}"
        if fields.get("state") != "online" or lag_s > _LAG_WARNED_S:
            text = f"{name} is {fields.get('state', '?')}, {lag_s} s behind: a failover to it loses that time"
            yield Diagnosis(Level.WARNING, "replicas", text)
        else:
            text = f"{name} follows; replication is asynchronous: a failover may lose the writes just before it"
            yield Diagnosis(Level.GOOD, "replicas", text)


def _memory(facts: Facts) -> Iterator[Diagnosis]:
    info = facts.info
    used, allowed = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0") or 0)
    system = int(info.get("total_system_memory", "0") or 0)
    if not used:
        return
    if allowed:
        share = used / allowed
        level = Level.DANGER if share > ROOM_DANGER else Level.WARNING if share > ROOM_WARNED else Level.GOOD
        text = f"{_mib(used)} of {_mib(allowed)} in use ({share:.0%}); when it is full, new calls are refused"
        yield Diagnosis(
            level, "memory", text, "" if level is Level.GOOD else "give it more memory, or shorten the retention"
        )
    elif system:
        share = used / system
        level = Level.WARNING if share > _SYSTEM_ROOM_WARNED else Level.GOOD
        text = f"{_mib(used)} in use of the {_mib(system)} this machine has ({share:.0%}), no maxmemory"
        yield Diagnosis(
            level, "memory", text, "" if level is Level.GOOD else "set maxmemory before the system kills it"
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def _clock(facts: Facts) -> Iterator[Diagnosis]:
    off = facts.clock_off_s
    if abs(off) < _CLOCK_OFF_S:
        yield Diagnosis(Level.GOOD, "clock", "the server's clock agrees with ours")
        return
    word = "ahead of" if off > 0 else "behind"
    yield Diagnosis(
        Level.DANGER if abs(off) > _CLOCK_WRONG_S else Level.WARNING,
        "clock",
        f"the server's clock is {abs(off):,.0f} s {word} ours: all due times follow the server's clock",
        "let both follow NTP",
    )


def _latency(facts: Facts) -> Iterator[Diagnosis]:
    if not facts.pings_ms:
        return
    median, worst = statistics.median(facts.pings_ms), max(facts.pings_ms)
    level = Level.WARNING if median > _SLOW_PING_MS else Level.GOOD
    text = f"a round trip takes {median:.1f} ms, {worst:.1f} at worst; a step takes about two round trips"
    yield Diagnosis(level, "latency", text, "" if level is Level.GOOD else "bring workers and server closer together")


def _rights(facts: Facts) -> Iterator[Diagnosis]:
    if facts.missing_rights is None:
        yield Diagnosis(
            Level.GOOD,
            "rights",
            "the rights that our user lacks cannot be seen: this needs ACL DRYRUN, of Redis 7, and the right to use it",
        )
    elif facts.missing_rights:
        yield Diagnosis(
            Level.DANGER,
            "rights",
            f"our user may not use {', '.join(facts.missing_rights)} on our keys",
            "examples/users.acl has the least rights that are needed",
        )
    else:
        yield Diagnosis(Level.GOOD, "rights", "our user has all rights that are needed")
