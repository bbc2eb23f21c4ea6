"""The commands that a user of the server must be allowed to run.

Source of the question: ACL DRYRUN, in the Redis documentation.
"""

from __future__ import annotations

from durasleep.errors import DurasleepError
from durasleep.protocol import server
from durasleep.protocol.command import Call, Plan
from durasleep.protocol.keys import Keyspace

RIGHTS: tuple[tuple[str, ...], ...] = (
    ("EVALSHA", "sha", "1", "{key}"),
    ("EVAL", "script", "1", "{key}"),
    ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "{key}", ">"),
    ("XREAD", "STREAMS", "{key}", "0"),
    ("XGROUP", "CREATE", "{key}", "g", "0", "MKSTREAM"),
    ("XGROUP", "CREATECONSUMER", "{key}", "g", "c"),
    ("XGROUP", "DELCONSUMER", "{key}", "g", "c"),
    ("XINFO", "CONSUMERS", "{key}", "g"),
    ("XINFO", "GROUPS", "{key}"),
    ("XPENDING", "{key}", "g"),
    ("XRANGE", "{key}", "-", "+"),
    ("XREVRANGE", "{key}", "+", "-"),
    ("XADD", "{key}", "*", "a", "b"),
    ("XACK", "{key}", "g", "0-1"),
    ("XCLAIM", "{key}", "g", "c", "0", "0-1"),
    ("XDEL", "{key}", "0-1"),
    ("XTRIM", "{key}", "MAXLEN", "1000000"),
    ("XLEN", "{key}"),
    ("HGET", "{key}", "f"),
    ("HMGET", "{key}", "f"),
    ("HGETALL", "{key}"),
    ("HEXISTS", "{key}", "f"),
    ("HKEYS", "{key}"),
    ("HLEN", "{key}"),
    ("HSCAN", "{key}", "0"),
    ("HSET", "{key}", "f", "v"),
    ("HSETNX", "{meta}", "f", "v"),
    ("HDEL", "{key}", "f"),
    ("SADD", "{key}", "m"),
    ("SREM", "{key}", "m"),
    ("SCARD", "{key}"),
    ("SISMEMBER", "{key}", "m"),
    ("SRANDMEMBER", "{key}", "2"),
    ("SSCAN", "{key}", "0"),
    ("ZADD", "{key}", "1", "m"),
    ("ZREM", "{key}", "m"),
    ("ZSCORE", "{key}", "m"),
    ("ZCARD", "{key}"),
    ("ZCOUNT", "{key}", "0", "1"),
    ("ZRANGE", "{key}", "0", "0"),
    ("ZRANGEBYSCORE", "{key}", "0", "1"),
    ("ZRANK", "{key}", "member"),
    ("ZSCAN", "{key}", "0"),
    ("GET", "{key}"),
    ("SET", "{key}", "v"),
    ("DEL", "{key}"),
    ("UNLINK", "{key}"),
    ("RENAME", "{key}", "{key}"),
    ("EXISTS", "{key}"),
    ("TYPE", "{key}"),
    ("PTTL", "{key}"),
    ("PEXPIRE", "{key}", "1"),
    ("PERSIST", "{key}"),
    ("SCAN", "0"),
    ("TIME",),
    ("INFO",),
    ("PING",),
    ("CLIENT", "ID"),
    ("CLIENT", "LIST"),
    ("CLIENT", "SETNAME", "n"),
)
"""Every command that is sent, or used in a script, with valid arguments."""

OF_SEVERAL_PARTITIONS = (("COMMAND", "GETKEYS", "GET", "{key}"), ("CLIENT", "UNBLOCK", "1"))
"""What a namespace with several partitions needs besides: its transactions, and workers without a free slot."""
OF_CLUSTERS = (("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"))
"""What a cluster needs besides; without the last one it cannot be seen which slots are moving."""


def missing_rights(keys: Keyspace, user: str, *, at: int, is_cluster: bool) -> Plan[tuple[str, ...] | None]:
    """Commands that ``user`` may not run on the node of the slot ``at``; None if the server cannot tell: it is older
    than 7, or we may not ask.
    """
    needed = RIGHTS + (OF_SEVERAL_PARTITIONS if keys.partitions > 1 else ()) + (OF_CLUSTERS if is_cluster else ())
    key, meta = keys.promise("doctor"), f"{{{keys.namespace}}}:meta"
    calls: list[Call] = []
    for right in needed:
        words = [word.replace("{key}", key).replace("{meta}", meta) for word in right]
        calls.append(server.may_run(user, words).at(at))
    answers = yield calls
    if any(isinstance(answer, DurasleepError) for answer in answers):
        return None
    return tuple(right[0] for right, answer in zip(needed, answers, strict=True) if not answer)
