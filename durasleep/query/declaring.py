"""What a program declares of its functions, kept in every partition: their limits, priorities and retentions.

Older versions do not know these. So nothing is declared, and no call says anything of the kind, before all workers of
the namespace know them. From then on the namespace needs them, and workers of older versions do not serve it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from durasleep.declared import Declared
from durasleep.errors import DurasleepError, NotAllowed, UsageError
from durasleep.limit import Limit
from durasleep.protocol import limits, server, sorted_sets, versions
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keys import Keyspace, L
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.versions import CHANNELS, FLOW, RESONATE

_BEATS_MS = 10_000  # a worker with a heartbeat since then is alive
_NAMED_MAX = 5  # workers in one sentence


_CALLED = {FLOW: "priorities, labels and limits", CHANNELS: "messages and published values", RESONATE: "a gateway"}


def require(keyspaces: Keyspaces, feature: str) -> Plan[None]:
    """From now on the namespace needs versions with this feature. NotAllowed while a worker of an older version is
    alive.
    """
    namespace = keyspaces[0].namespace
    [meta] = yield [versions.read_meta(namespace)]
    if versions.needs(unwrap(meta), feature):
        return
    yield from _check_workers(keyspaces, feature)
    [added] = yield [versions.add_feature(namespace, feature)]
    unwrap(added)
    yield from _check_workers(keyspaces, feature)  # one may have begun meanwhile: its next heartbeat ends it


def _check_workers(keyspaces: Keyspaces, feature: str) -> Plan[None]:
    old = yield from _old_workers(keyspaces, feature)
    if old:
        more = f" and {len(old) - _NAMED_MAX} more" if len(old) > _NAMED_MAX else ""
        named = ", ".join(name.partition("/")[0] for name in old[:_NAMED_MAX])
        raise NotAllowed(
            f"{_CALLED[feature]} can be used when no worker of an older version is left; there are {named}{more}"
        )


def _old_workers(keyspaces: Keyspaces, feature: str) -> Plan[list[str]]:
    """Workers that are alive, and do not know this feature."""
    asked = [(sorted_sets.list_members(keys.workers), server.read_time().at(keys.slot)) for keys in keyspaces]
    answers = yield list(chain.from_iterable(asked))
    beating: dict[str, Keyspace] = {}
    for keys, beats, now_us in zip(keyspaces, answers[::2], answers[1::2], strict=True):
        if isinstance(beats, DurasleepError) or isinstance(now_us, DurasleepError):
            continue  # a node that does not answer has no worker that could change anything there
        beating |= {name: keys for name, beat_ms in beats if now_us // 1000 - beat_ms < _BEATS_MS}
    if not beating:
        return []
    known = yield [versions.read_knows(keys, name) for name, keys in beating.items()]
    return [name for name, knows in zip(beating, known, strict=True) if feature not in (unwrap(knows) or "").split()]


def declare(keyspaces: Keyspaces, declared: Mapping[str, Declared]) -> Plan[bool]:
    """Keep what is declared of some functions, where it differs from what is kept; true if anything did. The namespace
    must need ``FLOW`` if anything is declared. UsageError for a limit that cannot be divided among the partitions.
    """
    if not declared:
        return False
    keyed = check_keyed(declared)
    texts = {
        name: limits.declared_text(
            one.limit.name if one.limit else "", one.priority, one.retention_ms, needs_key=one.needs_key
        )
        for name, one in declared.items()
    }
    count, changed = len(keyspaces), False
    for keys in keyspaces:
        calls = [
            limits.declare_limit(
                keys,
                limit.name,
                {L[what]: value for what, value in limit.numbers(keys.partition, count, is_keyed=is_keyed).items()},
            )
            for limit, is_keyed in keyed.items()
        ]
        [kept] = yield [limits.read_declared(keys, list(texts))]
        known: dict[str, str] = unwrap(kept)
        calls += [limits.declare_function(keys, name, text) for name, text in texts.items() if known[name] != text]
        for answer in (yield calls) if calls else []:
            changed = unwrap(answer) or changed
    return changed


def check_keyed(declared: Mapping[str, Declared]) -> dict[Limit, bool]:
    """The limits of some functions, and whether each counts by key. UsageError if its functions disagree."""
    keyed: dict[str, tuple[Limit, bool, str]] = {}
    for name, one in declared.items():
        if one.limit is None:
            continue
        limit, is_keyed, other = keyed.setdefault(one.limit.name, (one.limit, one.needs_key, name))
        if limit != one.limit:
            raise UsageError(f"two limits are named {limit.name!r}, that of {other} and that of {name}")
        if is_keyed != one.needs_key:
            raise UsageError(
                f"limit {limit.name!r} counts by key for one of {other} and {name}: give both a by=, or none"
            )
    return {limit: is_keyed for limit, is_keyed, _ in keyed.values()}


def is_declaring(declared: Mapping[str, Declared]) -> bool:
    """Whether anything is declared."""
    return any(one != Declared() for one in declared.values())
