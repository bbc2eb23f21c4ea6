"""Every name in Redis: keys, hash fields, and one-letter codes; the Lua scripts get them from here.

In a script ``F.state`` is the field name, ``STATE.pending`` the code, ``LIMIT.due_ms_max`` the number: the loader
replaces them by the literals, so the tables below exist once and cost nothing at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from durasleep.model import (
    DUE_MS_MAX,
    INBOX_TTL_MS,
    PAYLOAD_BYTES_MAX,
    PRIORITIES,
    PRIORITY,
    RECEIVES_MAX,
    Kind,
    Place,
    State,
    check_name,
)
from durasleep.protocol.partitions import partition_of, slot_of, tag_of

SCHEMA_VERSION = 2

F = {
    # what it is
    "state": "s",  # only when it has settled
    "kind": "k",  # only if it is not an execution
    "func": "f",
    "queue": "g",  # only if it is not the default
    "args": "a",  # the rest of long ones is in a1, a2, ...
    "more_args": "a1",
    "incarnation": "b",
    "created": "c",  # only if it differs from the family's stamp
    "idempotency_key": "i",  # the id that its creator gave the call, so that a repeated create is recognised
    "unquoted": "uq",  # a stream entry could not carry all that its worker needs: none carries a snapshot
    "origins": "of",  # of a fork: whose journal it has up to which stamp, see ``query.forking``
    "retention": "r",  # ms, -1 for ever; only if it is not the default, and only for a root
    # its place
    "place": "p",
    "epoch": "e",
    "entry": "n",  # its current stream entry
    "due": "d",  # until when it is delayed
    "deadline": "t",
    "reason": "y",  # why it is delayed or halted, for people
    "crash_count": "x",  # workers that died in a row while running it
    "lone_crash_count": "xl",  # those of them that held no other suspect
    "grown": "xg",  # bytes it has added to its journal while Redis had no memory left
    "lacking": "xf",  # function sets of workers that lack its function, each followed by a space, the latest last
    # its journal
    "order": "o",
    "unseen": "u",  # numbers settled after the last stamp that a commit named, oldest first
    "base": "m",  # the current run numbers its entries after this one
    "begun": "mb",  # ms; when the current run began, if it is not the first
    "family": "h",  # it has started children
    "waiters": "w",
    "limit": "lm",  # "+" if it holds a slot, else "-"; then the name of its limit, "/" and its key
    "labels": "l",  # each as name=value, see ``model.Traits``
    "trace": "tc",  # the span that asked for it, see ``observe.tracing``; only if there was one
    "trace_now": "tn",  # the span of a later trace, in which it goes on after a gap
    "value": "v",
    "settled": "z",
    "cursor": "cc",  # how far the closing of a large family has come
    "receives": "rc",  # the receives that wait, in the order of the calls: lines of number, tab and channel
    "calls": "rm",  # calls without a key whose messages were delivered, each with a line end; others: mailbox.lua
    "extras": "ex",  # what else there is of it: m for its mailbox, v for what it publishes, r for `receives`
    "checkpoint": "q",  # and the number of a step: what its attempts have kept for the next one
}
"""Fields of a ``promise`` hash. All others begin with a digit: they are journal entries, named by their number."""

STATE = {
    State.PENDING: "p",
    State.RESOLVED: "r",
    State.REJECTED: "j",
    State.CANCELED: "c",
    State.TIMEDOUT: "t",
}
PLACE = {Place.QUEUED: "q", Place.SUSPENDED: "s", Place.DELAYED: "d", Place.HALTED: "h", Place.PARKED: "k"}
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
    Kind.RECEIVE: "r",
    Kind.SEND: "m",
    Kind.SETTLE: "o",
}
S = {
    "cron": "x",  # its times; one that only newer versions can run begins with "= ", see ``schedules``
    "zone": "z",
    "func": "f",
    "queue": "g",
    "args": "a",
    "due": "d",
    "aside": "y",  # why it could not be read at the last try
    "retention": "r",  # of the executions it starts, as in a promise
    "overlap": "o",  # what happens if the execution before is still pending; allow if it is missing
    "catch_up": "c",  # what happens with missed times; first if it is missing
    "window_ms": "w",  # times that were missed by more are dropped
    "note": "n",  # for people
    "limit": "l",  # how many starts it was given
    "remaining": "m",  # how many of them are left
    "paused": "p",  # since when, in ms
    "running": "e",  # the execution for whose end the next one waits
    "waiting": "q",  # times whose executions are still to be started, in ms, each followed by a space
    "starting": "k",  # ids that are being started in other partitions, as above
    "revision": "v",  # grows with each change of one that only newer versions can run
}
"""Fields of a ``schedule`` hash."""

W = {
    "client": "c",  # the id of its heartbeat connection
    "group": "g",
    "info": "i",  # host and process, for people
    "knows": "k",  # its schema and features, see ``handshake.KNOWS``
    "beat_ms": "b",  # between two of its beats
    "functions": "f",  # which functions it has, as a short hash; empty while it leaves
    "lost": "l",  # threads that run a function nobody waits for any more
    "slots": "s",  # how many executions it runs at a time
    "blocked": "o",  # for how many ms its event loop has been blocked
}
"""Fields of a ``worker`` hash."""

L = {
    "per_key": "k",
    "total": "t",
    "rate": "n",
    "window": "w",  # ms
    "burst": "b",
    "hold": "h",  # "l" for life
    "parked_max": "x",
    "overflow": "o",
    "keyed": "y",  # its rate is one for each key
    "paused": "p",  # since when, ms
    "by_hand": "m",  # its numbers are those of a person, not of the code
    "code": "c",  # those of the code, between tabs
}
"""Fields of a ``limit`` hash; after ``w:`` the weight of a key by hand."""

V = {"turn": "v", "sequence": "q", "cursor": "c", "parked": "n"}
"""Fields of the ``gate`` hash of a limit, beside those of its keys."""

G = {
    "since": "p",  # ms; when it was paused
    "by": "b",  # by whom
}
"""Fields of a ``group`` hash, which exists while the group is paused."""

VIEW = {
    "workflow": "w",  # what the workflow publishes: ms, a tab, and a payload, see ``protocol.view``
    "step": "s",  # and the number of the first attempt of a step, or nothing for a task: likewise
    "watchers": "i",  # inboxes that are to be notified of the next change, each followed by a line end
}
"""Fields of a ``view`` hash."""

A = {
    "by": "b",
    "verb": "v",
    "id": "i",  # of what was changed; else one of the next two, or none
    "filter": "f",  # the filter of a bulk form
    "count": "n",  # how many it has changed
    "word": "w",  # what happened
}
"""Fields of an entry of ``audit``."""

R = {
    "state": "s",  # only when it has settled
    "kind": "k",  # what its target does not say: m a timer, x external, a internal without a branch to go with
    "timeout": "t",  # ms, as all times
    "created": "c",
    "settled": "z",
    "target": "g",  # of a group that polls: "@" instead of ``poll://any@``
    "tags": "T",  # in short, see ``lua/resonate/tags.lua``
    "param": "P",  # headers and data as they were sent; the rest of long ones is in P1, P2, ...
    "value": "V",
    "waiters": "w",
    "task": "q",  # the state of its task: p(ending), a(cquired), s(uspended), h(alted), f(ulfilled)
    "version": "v",  # only if it is not 0
    "pid": "i",
    "ttl": "l",
    "resumes": "r",  # how many promises have settled since it was acquired
    "children": "n",  # of a root: how many promises below it are pending
    "counted": "o",  # it is or was one of these: 1, or the id of the root if that is not the beginning of its own
    "readers": "b",  # tasks of other roots that have made it or waited for it, as waiters, each followed by a NUL
    "heard": "h",  # while it is acquired: promises elsewhere that have settled, each followed by a NUL; "+" for many
    "awaits": "a",  # when it was suspended last: one of those it waits for, a NUL for its own id at the beginning
    "cursor": "y",  # how far the removal of its branch has come
}
"""Fields of a ``r:promise`` hash: a promise of Resonate's protocol, and its task."""

RS = {
    "cron": "x",
    "promise_id": "i",
    "timeout": "t",
    "param": "P",
    "tags": "T",
    "created": "c",
    "target": "g",
    "due": "d",
    "last": "l",
}
"""Fields of a ``r:schedule`` hash."""

WORD = {"many": "+"}
"""What the field of the waiters says if there are many: they are members of a set, see ``Keyspace.waiters``. Otherwise
it has a line for each: an inbox as ``i<inbox>``, an entry of another execution as ``p<incarnation> <id>~<number>``, the
schedule that has started it as ``s<name>``, an entry in another partition as ``x<partition> ...``.
"""

DEFAULT = {"queue": "workers", "priority": str(PRIORITY)}
"""Values that are not written, because they are nearly always the same."""

NEAR = {
    "functions": "functions",
    "limits": "limit:",
    "index": "index:",
    "stats": "stats:",
    "mail": "mail:",
    "view": "view:",
    "indexed": "\\n",  # a field of ``functions``: the labels that have an index, each followed by a space
}
"""Keys of a partition that few calls need. A script builds them with ``near``: each of KEYS costs every call."""

LIMIT = {
    "due_ms_max": DUE_MS_MAX,
    "retention_ms": 7 * 24 * 3600 * 1000,
    "family_max": 256,  # members of families that one script closes; the rest waits in `closing`
    "answer_entries_max": 256,  # journal entries in one answer
    "answer_bytes_max": 1 << 20,
    "ending_cost": 4,  # of its room for members: ending another promise, or telling it, takes as many commands
    "closing_max": 32,  # ended promises whose families one script continues to close
    "closing_newer": 10**15,  # larger scores in `closing`: families that only a newer version can close
    "value_bytes_max": 2 * PAYLOAD_BYTES_MAX,  # of one field in an answer: a payload, and the data around it
    "transaction_bytes_max": 1 << 20,  # of the answers of its commands
    "full_bytes_max": 16_384,  # that an execution may add to its journal while Redis has no memory left
    "full_entry_bytes": 64,  # the size of an entry in it, without its data
    "full_value_bytes_max": 65_536,  # of the value with which an execution may end then
    "call_bytes_max": 4 << 20,  # moved by one script call, beside its own arguments: a few milliseconds of Redis
    "waiters_bytes_max": 512,  # of the field that names the waiters; if there are more, they are in a set
    "readers_bytes_max": 2048,  # of the field that names the tasks of other roots; if there are more, they are in a set
    "promise_waiters_max": 100_000,  # executions and inboxes that wait for one promise; they take some 8 MB then
    "inbox_entries_max": 1000,
    "inbox_value_bytes_max": 16_384,  # the client reads larger results itself
    "inbox_entry_bytes_max": 16_384,  # of ids and values: an inbox that nobody reads has at most some 16 MiB
    "inbox_ttl_ms": INBOX_TTL_MS,
    "recent_max": 1000,  # entries of `recent` and of `failed`, each of up to sixteen endings
    "audit_max": 10_000,  # entries of `audit`: weeks of work by hand, some 2 MB
    "begin_ms_min": 1000,  # an entry that begins earlier in the life of its execution does not store when
    "snapshot_bytes_max": 512,  # of an execution in its stream entry: larger ones are loaded
    "snapshot_fields_max": 40,  # of its hash: some sixteen of them are journal entries
    "snapshots_queued_max": 10_000,  # in one stream; entries behind them have no snapshot
    "args_part_bytes": 64,  # the default of hash-max-listpack-value
    "args_parts_max": 16,
    "levels": max(PRIORITIES),
    "parked_max": 100_000,  # of one key; each takes some 130 bytes
    "functions_max": 1000,  # that have something declared
    "workers_max": 1000,  # the youngest of them
    "struck_max": 100,  # of the oldest workers, if there are more: those that are gone for good are removed
    "beats_missed": 3,  # a worker that has missed this many may be dead, and nobody waits for it to fire first
    "lacking_max": 16,  # of one execution; with more different workers, it tries again by its timer
    "offers_max": 256,  # workers that one offer looks at, the youngest
    "pending_max": 1000,  # entries of one worker that one answer looks at
    "consumers_max": 1000,
    "starts_max": 64,  # executions that one call starts for a schedule
    "members_max": 4096,  # of one group, the latest: with more, each would serve one partition of 256
    "receives_max": RECEIVES_MAX,
    "mailbox_max": 1000,  # unread messages of one execution
    "mailbox_bytes_max": 1 << 20,  # of them together
    "calls_bytes_max": 64,  # of a field: with a longer one, Redis keeps the whole hash in a form three times as large
    "ring_max": 1000,  # keys of messages, and ids of calls without one, that a mailbox remembers
    "mail_told_ms": 10_000,  # a sender in another partition that has not heard by then is told again
    "mail_line_kept_ms": 60_000,  # after it has heard: longer than a relay holds a question
    "mail_lines_max": 10_000,  # of one mailbox, some 100 bytes each; further senders elsewhere have to wait
    "ended_mailbox_ms": 60_000,  # longer than a client repeats a call
    "watchers_max": 256,  # inboxes that are notified of what one execution publishes
    "view_steps_max": 64,  # steps of one execution that publish something
    "members_ttl_ms": 90_000,  # after the last muster of the group
    "resonate_id_bytes_max": 1024,
    "resonate_tags_bytes_max": 16_384,  # as they were sent
    "resonate_members_max": 10_000,  # of all objects in a request that makes or settles something
    "resonate_waiters_max": 256,  # that one call tells of an ending; a tick tells the others
    "resonate_actions_max": 10_000,  # promises that one task waits for
    "resonate_heard_bytes_max": 16_384,  # ids of what has settled elsewhere; with more, its suspension ends at once
    "resonate_tasks_max": 1000,  # in one heartbeat
    "resonate_refused_min": 30,  # acquired at least so often, a task that is released within the next is refused
    "resonate_refused_ms": 1000,  # and is offered again only then
    "resonate_preload_max": 100,  # promises in one answer, beside what was asked for
    "resonate_preload_bytes_max": 1 << 18,
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
    "schedules",
)
"""KEYS of every script, in the order of ``lua/shared/keys.lua`` (which a test compares with this)."""
OWN_KEY_NAMES = {
    "muster": ("members",),
    **{f"resonate_{name}": ("own_prefix", "timers") for name in ("rpc", "tick", "take", "retain", "fsck")},
}
"""KEYS of a script that works on no partition, or beside the executions of one."""


@dataclass(frozen=True, slots=True, eq=False)
class Keyspace:
    """The keys of one partition of a namespace; its owner makes it once, so that its batches share one object."""

    namespace: str
    partition: int = 0
    """Its number, from 0."""
    partitions: int = 1
    """How many the namespace has."""
    movable_clock: bool = False
    """For tests: the scripts use a clock that ``clock`` moves."""
    value_bytes_max: int = LIMIT["value_bytes_max"]
    """A longer value was not written by durasleep: it is not even returned."""
    journal_bytes_max: int = 32 << 20
    """The largest journal that can be loaded: twice the limit at which an execution is halted."""
    tag: str = field(init=False)
    """The beginning of each of its keys."""
    slot: int = field(init=False)
    """The hash slot of all its keys in a cluster."""

    def __post_init__(self) -> None:
        tag = tag_of(self.namespace, self.partition, self.partitions)
        object.__setattr__(self, "tag", f"{{{tag}}}:")
        object.__setattr__(self, "slot", slot_of(tag))

    def elsewhere(self, id: str) -> int | None:
        """The partition of an id, if it is another one."""
        if self.partitions == 1 or (there := partition_of(id, self.partitions)) == self.partition:
            return None
        return there

    def named(self) -> dict[str, str]:
        """The keys of the scripts, by the names they have there."""
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

    def group(self, name: str) -> str:
        """That a group is paused."""
        return f"{self.tag}group:{name}"

    def repeat(self, key: str) -> str:
        """What is noted of a request by HTTP that may be repeated under a key."""
        return f"{self.tag}repeat:{key}"

    def limit(self, name: str) -> str:
        """The numbers of a limit; the beginning of its other keys, too."""
        return f"{self.tag}{NEAR['limits']}{name}"

    def mail(self, id: str) -> str:
        """The messages of an execution that its code has not asked for."""
        return f"{self.tag}{NEAR['mail']}{id}"

    def stats(self, minute: str) -> str:
        """How many executions have ended in a minute since 1970, by function and state."""
        return f"{self.tag}{NEAR['stats']}{minute}"

    def index(self, label: str) -> str:
        """The executions with a label, or by their function, in the order of its values."""
        return f"{self.tag}{NEAR['index']}{label}"

    @property
    def functions(self) -> str:
        """What workers have declared of their functions, see ``protocol.functions``."""
        return f"{self.tag}{NEAR['functions']}"

    @property
    def schedules(self) -> str:
        """The names of the schedules."""
        return f"{self.tag}schedules"

    @property
    def own(self) -> str:
        """The beginning of the keys of users that are on the same node as this partition."""
        return f"{self.tag}own:"

    @property
    def resonate(self) -> str:
        """The beginning of the keys of Resonate's protocol."""
        return f"{self.tag}r:"

    @property
    def resonate_wake(self) -> str:
        """The stream that tells whoever delivers messages of Resonate's protocol to look."""
        return f"{self.resonate}wake"

    def waiters(self, id: str) -> str:
        """The set of the waiters of a promise, if there are many."""
        return f"{self.tag}waiters:{id}"

    def view(self, id: str) -> str:
        """What an execution publishes."""
        return f"{self.tag}{NEAR['view']}{id}"

    def run(self, id: str) -> str:
        """The journal of a run that has ended with continue_as_new, until it is closed."""
        return f"{self.tag}run:{id}"

    def leaving(self, name: str) -> str:
        """A promise or schedule, by the name of its key, that a move has taken out."""
        return f"{self.tag}leaving:{name}"

    def arriving(self, name: str) -> str:
        """One that a move has written only in part."""
        return f"{self.tag}arriving:{name}"

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
        """By how many ms the clock of a test was moved; after ``=`` the instant at which it stands still."""
        return f"{self.tag}clock"

    @property
    def clock_held(self) -> str:
        """The time that the workers accept while they do not accept the server's; it expires if it is not repeated."""
        return f"{self.tag}clock-held"

    @property
    def clock_released(self) -> str:
        """The server's time when a person said that its clock is right."""
        return f"{self.tag}clock-released"

    @property
    def recent(self) -> str:
        """The executions that ended last."""
        return f"{self.tag}recent"

    @property
    def failed(self) -> str:
        """The last executions that were rejected, timed out or canceled."""
        return f"{self.tag}failed"

    @property
    def audit(self) -> str:
        """What people have done by hand."""
        return f"{self.tag}audit"


def meta_key(namespace: str) -> str:
    """The hash with the schema version and number of partitions of a namespace."""
    return f"{{{check_name(namespace, 'namespace')}}}:meta"


def members_key(namespace: str, group: str) -> str:
    """The sorted set of the workers of a group that share the partitions, each with the time of its last muster."""
    return f"{{{namespace}}}:members:{group}"
