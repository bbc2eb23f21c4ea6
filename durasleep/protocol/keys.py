"""Every name in Redis: keys, hash fields, and the one-letter codes; the Lua scripts get them from here.

In a script ``F.state`` is the field name, ``STATE.pending`` the code, ``LIMIT.due_ms_max`` the number:
the loader writes the literal in their place, so the tables below exist once and cost nothing at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from durasleep.model import DUE_MS_MAX, PAYLOAD_BYTES_MAX, Kind, Place, State, check_name

SCHEMA_VERSION = 2

F = {
    # what it is
    "state": "s",  # only once it has settled
    "kind": "k",  # only where it is no execution
    "func": "f",
    "queue": "g",  # only where it is not the default
    "args": "a",  # the rest of longer ones is in a1, a2, ...
    "more_args": "a1",
    "incarnation": "b",
    "created": "c",  # only where it differs from the birth stamp
    "idempotency_key": "i",  # the id its creator gave the call, so that a repeated create is recognised
    "retention": "r",  # ms, -1 for ever; only where it differs from the default, and only of what is a root
    # where it is
    "place": "p",
    "epoch": "e",
    "entry": "n",  # its current stream entry
    "due": "d",  # until when it is delayed
    "deadline": "t",
    "reason": "y",  # why it is delayed or halted, for people
    "crash_count": "x",  # workers that died in a row while running it
    "lone_crash_count": "xl",  # those of them while it was the only suspect they held
    "grown": "xg",  # bytes it has added to its journal while Redis had no memory left
    "lacking": "xf",  # sets of functions that lack its own, each with a space behind it, the latest last
    # what happened
    "order": "o",
    "unseen": "u",  # numbers settled since the last stamp a commit named, oldest first
    "base": "m",  # numbering of the current run begins after this one
    "begun": "mb",  # ms; when the current run began, if it is not the first
    "family": "h",  # it has started children
    "waiters": "w",
    "value": "v",
    "settled": "z",
    "cursor": "cc",  # how far the closing of a large family has come
}
"""Fields of a ``promise`` hash. All others begin with a digit: they are journal entries, named by their number."""

STATE = {
    State.PENDING: "p",
    State.RESOLVED: "r",
    State.REJECTED: "j",
    State.CANCELED: "c",
    State.TIMEDOUT: "t",
}
PLACE = {Place.QUEUED: "q", Place.SUSPENDED: "s", Place.DELAYED: "d", Place.HALTED: "h"}
KIND = {
    Kind.EXECUTION: "e",
    Kind.PROMISE: "p",
    Kind.TIMER: "t",
    Kind.STEP: "s",
    Kind.CHILD: "c",
    Kind.TRANSACTION: "x",
    Kind.CANCEL: "k",
    Kind.DETACHED: "d",
    Kind.PATCH: "h",
    Kind.VERSION: "v",
}
S = {
    "cron": "x",
    "zone": "z",
    "func": "f",
    "queue": "g",
    "args": "a",
    "due": "d",
    "aside": "y",  # why it could not be read, where it was tried last
    "retention": "r",  # of what it starts, as in a promise
}
"""Fields of a ``schedule`` hash."""

W = {
    "client": "c",  # the id of its heartbeat connection
    "group": "g",
    "info": "i",  # host and process, for people
    "knows": "k",  # its schema and features, see ``handshake.KNOWS``
    "beat_ms": "b",  # between two of its beats
    "functions": "f",  # which functions it has, as a short hash; none while it leaves
    "lost": "l",  # threads that run what nobody waits for any more
}
"""Fields of a ``worker`` hash."""

DEFAULT = {"queue": "workers"}
"""What is not written, because it is nearly always the same."""

LIMIT = {
    "due_ms_max": DUE_MS_MAX,
    "retention_ms": 7 * 24 * 3600 * 1000,
    "family_max": 256,  # members of families one script closes; the rest waits in `closing`
    "answer_entries_max": 256,  # journal entries in one answer
    "answer_bytes_max": 1 << 20,
    "closing_max": 32,  # ended promises one script goes on closing
    "closing_newer": 10**15,  # above it in `closing`: what only a newer version can close
    "value_bytes_max": 2 * PAYLOAD_BYTES_MAX,  # of one field that is answered: a payload, and what stands around it
    "transaction_bytes_max": 1 << 20,  # of what it answers
    "full_bytes_max": 16_384,  # that an execution may add to its journal while Redis has no memory left
    "full_entry_bytes": 64,  # what an entry of it takes, beside what it says
    "full_value_bytes_max": 65_536,  # with which something may end then
    "call_bytes_max": 4 << 20,  # moved by one script call, beside its own arguments: a few milliseconds of Redis
    "waiters_bytes_max": 512,  # of the field that names who waits; of more there is a set
    "promise_waiters_max": 100_000,  # executions and inboxes that wait for one; they take some 8 MB then
    "inbox_entries_max": 1000,
    "inbox_value_bytes_max": 16_384,  # larger results are read by their reader
    "inbox_entry_bytes_max": 16_384,  # of ids and values: an inbox nobody reads has at most some 16 MiB
    "inbox_ttl_ms": 90_000,
    "recent_max": 1000,  # entries of `recent` and of `failed`, each of up to sixteen endings
    "begin_ms_min": 1000,  # what begins earlier in the life of its execution does not say when
    "snapshot_bytes_max": 512,  # of an execution in its stream entry: what begins with more is loaded
    "snapshot_fields_max": 40,  # of its hash: some sixteen of them are journal entries
    "snapshots_queued_max": 10_000,  # in one stream; what is queued behind as many is only named
    "args_part_bytes": 64,  # the default of hash-max-listpack-value
    "args_parts_max": 16,
    "workers_max": 1000,  # the youngest of them
    "struck_max": 100,  # of the oldest, where there are more: those that are gone for good are struck
    "beats_missed": 3,  # who has missed as many of its own may be dead, and nobody waits for it to fire first
    "lacking_max": 16,  # of one execution; a fleet of more different workers tries again by its timer
    "offers_max": 256,  # workers one offer looks at, the youngest
    "pending_max": 1000,  # entries of one worker one answer looks at
    "consumers_max": 1000,
}

KEY_NAMES = (
    "promise_prefix",
    "queue_prefix",
    "inbox_prefix",
    "worker_prefix",
    "schedule_prefix",
    "timers",
    "wake",
    "workers",
    "closing",
    "halted",
    "recent",
    "failed",
    "waiters_prefix",
    "run_prefix",
)
"""KEYS of every script, in the order of ``lua/shared/keys.lua`` (which a test compares with this)."""


@dataclass(frozen=True, slots=True, eq=False)
class Keyspace:
    """The keys of one partition of a namespace; its owner makes it once, so that it can stand for its batches."""

    namespace: str
    partition: int = 0
    movable_clock: bool = False
    """For tests: the scripts go by a clock that ``clock`` moves."""
    value_bytes_max: int = LIMIT["value_bytes_max"]
    """What is longer, somebody else wrote: it is not even answered."""
    journal_bytes_max: int = 32 << 20
    """What a journal may carry to be loaded at all: twice what it may carry to go on."""

    @property
    def tag(self) -> str:
        return f"{{{self.namespace}:{self.partition}}}:"

    def named(self) -> dict[str, str]:
        """The keys the scripts declare, by the names they use."""
        tag = self.tag
        return {
            name: f"{tag}{name.removesuffix('_prefix')}" + (":" if name.endswith("_prefix") else "")
            for name in KEY_NAMES
        }

    def promise(self, id: str) -> str:
        return f"{self.tag}promise:{id}"

    def queue(self, queue: str) -> str:
        return f"{self.tag}queue:{queue}"

    def inbox(self, who: str) -> str:
        return f"{self.tag}inbox:{who}"

    def worker(self, consumer: str) -> str:
        return f"{self.tag}worker:{consumer}"

    def schedule(self, name: str) -> str:
        return f"{self.tag}schedule:{name}"

    def waiters(self, id: str) -> str:
        """The set of those who wait for a promise, if they are many."""
        return f"{self.tag}waiters:{id}"

    def run(self, id: str) -> str:
        """The journal of a run that has ended with continue_as_new, until it is closed."""
        return f"{self.tag}run:{id}"

    @property
    def timers(self) -> str:
        return f"{self.tag}timers"

    @property
    def wake(self) -> str:
        return f"{self.tag}wake"

    @property
    def workers(self) -> str:
        return f"{self.tag}workers"

    @property
    def closing(self) -> str:
        return f"{self.tag}closing"

    @property
    def halted(self) -> str:
        return f"{self.tag}halted"

    @property
    def clock(self) -> str:
        """By how many ms the clock of a test has been moved; after ``=`` the instant at which it stands."""
        return f"{self.tag}clock"

    @property
    def clock_held(self) -> str:
        """What the workers believe the time to be while they do not believe the server; goes if nobody repeats it."""
        return f"{self.tag}clock-held"

    @property
    def clock_released(self) -> str:
        """The server's time when a person said that its clock is right."""
        return f"{self.tag}clock-released"

    @property
    def recent(self) -> str:
        """The latest endings."""
        return f"{self.tag}recent"

    @property
    def failed(self) -> str:
        """The latest executions that were rejected, timed out or canceled."""
        return f"{self.tag}failed"


def meta_key(namespace: str) -> str:
    """The hash with the schema version and number of partitions of a namespace."""
    return f"{{{check_name(namespace, 'namespace')}}}:meta"
