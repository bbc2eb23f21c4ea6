"""Real clusters on loopback for tests and chaos, made and changed by commands to their nodes, without redis-cli."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from durasleep.devserver import DevServer
from durasleep.errors import DurasleepError
from harness.servers import debug, find

HOST = "127.0.0.1"
SLOTS = 16_384
KEYS_A_STEP = 10
"""How many keys a MIGRATE moves: as many as redis-cli moves."""

_BUS = 10_000  # the nodes talk to one another on ports that are higher by this
_PORTS = range(11_000, 22_000)  # with their bus ports below those that Linux gives to outgoing connections
_PORT_ATTEMPTS = 10  # another program may take a port before the server does
_ANSWER_S = 5.0
_FAILOVER_S = 5.0  # then the server has given it up
_VOTES_COUNT_MS = 2000  # at least, and for twice the timeout of a node
_PATIENCE_S = 30.0
_LOOK_S = 0.02
_EPOCH = "cluster_current_epoch:"


class Node:
    """One server of a cluster, running or not."""

    def __init__(self, server: DevServer) -> None:
        self.server = server
        self.id = ""
        self.is_paused = False
        self._client: Any = redis.Redis(
            port=server.port,
            protocol=2,
            decode_responses=True,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._client.response_callbacks.clear()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def answers(self) -> bool:
        """Whether it runs, and is not paused."""
        return self.server.running and not self.is_paused

    def __str__(self) -> str:
        return f"{HOST}:{self.port}"

    def ask(self, *words: str | int) -> Any:
        """The raw answer to one command of an administrator; an error of redis-py if there is none."""
        return self._client.execute_command(*words)

    def kill(self) -> None:
        """As kill -9 does."""
        self.server.kill()
        self._client.close()
        self.is_paused = False


View = frozenset[tuple[int, int, int]]
"""First slot, last slot, port of the master: what one node believes."""


class Cluster:
    """Masters with equal shares of the slots, each with ``replicas`` replicas; every method blocks until it is done."""

    def __init__(
        self,
        kind: str,
        directory: Path,
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = 2000,
        extra_args: Sequence[str] = (),
        **options: Any,
    ) -> None:
        found = find(kind)
        assert found, f"{kind} is not installed"
        self.kind = kind
        self.nodes: list[Node] = []
        self._masters = masters
        self._replicas = replicas
        self._directory = directory
        self._moves: dict[int, tuple[Node, Node]] = {}
        self._last_masters: set[Node] = set()
        self._elected_at: dict[Node, float] = {}
        """When a node was seen last to have become a master, by the monotonic clock."""
        self._votes_count_s = max(2 * node_timeout_ms, _VOTES_COUNT_MS) / 1000
        own_args = (
            *("--cluster-enabled", "yes"),
            *("--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-migration-barrier", "100"),  # a replica stays with its master
            *("--repl-diskless-sync-delay", "0"),  # a replica is in step at once
            *debug(kind),
            *extra_args,
        )
        self._server: Callable[..., DevServer] = partial(DevServer, binary=found[0], extra_args=own_args, **options)

    @property
    def urls(self) -> list[str]:
        """Of each node, a plain one."""
        return [node.url for node in self.nodes]

    @property
    def url(self) -> str:
        """That of the whole cluster, which names every node."""
        return f"redis+cluster://{','.join(map(str, self.nodes))}"

    def start(self) -> Cluster:
        """Start the nodes, and wait until all of them say that the cluster is whole."""
        self.nodes = [self._new_node(number) for number in range(self._masters * (1 + self._replicas))]
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for number, node in enumerate(self.nodes):
            node.id = node.ask("CLUSTER", "MYID")
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, master in enumerate(masters):
            first, end = (SLOTS * at // self._masters for at in (number, number + 1))
            master.ask("CLUSTER", "ADDSLOTS", *range(first, end))
        for number, node in enumerate(self.nodes):
            for other in self.nodes[number + 1 :]:
                node.ask("CLUSTER", "MEET", HOST, other.port)
        for number, replica in enumerate(replicas):
            master = masters[number % self._masters]
            _until(lambda of=master, by=replica: of.id in by.ask("CLUSTER", "NODES"), "a replica to know its master")
            replica.ask("CLUSTER", "REPLICATE", master.id)
        self.await_health()
        return self

    def stop(self) -> None:
        """End all nodes. Nothing is kept, so nobody waits for a replica to be in step."""
        for node in self.nodes:
            node.kill()

    # -- who has what

    def node_of(self, slot: int) -> Node:
        """The master that serves a slot, as the first node that answers believes."""
        for first, last, port in self._view():
            if first <= slot <= last:
                return self._at(port)
        raise LookupError(f"no node serves slot {slot}")

    def masters(self) -> list[Node]:
        """The nodes that serve slots, in the order of their slots."""
        ports = [port for _, _, port in sorted(self._view())]
        return [self._at(port) for port in dict.fromkeys(ports)]

    def replicas_of(self, master: Node) -> list[Node]:
        """Those that answer and follow this master."""
        roles = [(node, node.ask("ROLE")) for node in self.nodes if node.answers]
        return [node for node, role in roles if role[0] == "slave" and int(role[2]) == master.port]

    # -- faults

    def kill(self, node: Node) -> None:
        """As kill -9 does."""
        self._await_new_votes(node)
        node.kill()

    def revive(self, node: Node) -> None:
        """Start a killed node again, on its old port and with its old place in the cluster."""
        node.server.start()

    def pause(self, node: Node) -> None:
        """It stands still, as a machine does that swaps: its connections stay open, and nothing is answered."""
        self._await_new_votes(node)
        os.kill(node.server.pid, signal.SIGSTOP)
        node.is_paused = True

    def resume(self, node: Node) -> None:
        """See ``pause``."""
        os.kill(node.server.pid, signal.SIGCONT)
        node.is_paused = False

    def heal(self) -> None:
        """Undo all faults, finish the moves that were begun, wait until the cluster is whole, and make it empty."""
        for node in self.nodes:
            if node.is_paused:
                self.resume(node)
            if not node.server.running:
                self.revive(node)
        self.await_health()
        if self._moves:
            for slot in tuple(self._moves):
                self.finish_move(slot)
            self.await_health()
        for master in self.masters():
            master.ask("FLUSHALL")

    # -- changes that an operator makes

    def failover(self, replica: Node, mode: Literal["", "FORCE", "TAKEOVER"] = "") -> None:
        """The replica takes over from its master, which follows it if it lives.

        Masters do not vote twice in a short time for the replica of one master. The server then gives up without a
        word, so it is asked again.
        """
        asked_at = -_FAILOVER_S

        def has_taken_over() -> bool:
            nonlocal asked_at
            if all(replica.port in _ports(_view_of(node)) for node in self.nodes if node.answers):
                return True
            if time.monotonic() > asked_at + _FAILOVER_S and replica.ask("ROLE")[0] == "slave":
                replica.ask("CLUSTER", "FAILOVER", *([mode] if mode else []))
                asked_at = time.monotonic()
            return False

        _until(has_taken_over, f"{replica} to be a master for all")
        self._note_elections()

    def move_slot(self, slot: int, to: Node) -> None:
        """Move a slot with its keys to another master."""
        self.begin_move(slot, to)
        self.finish_move(slot)

    def begin_move(self, slot: int, to: Node) -> None:
        """From now on the slot is moving: its master knows only keys that are still there."""
        source = self.node_of(slot)
        assert to is not source, f"{to} has slot {slot} already"
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        self._moves[slot] = source, to

    def move_some_keys(self, slot: int, count: int = KEYS_A_STEP) -> int:
        """One step of a move; returns how many keys it has moved, 0 if none are left."""
        source, to = self._moves[slot]
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.ask("MIGRATE", HOST, to.port, "", 0, round(_ANSWER_S * 1000), "KEYS", *keys)
        return len(keys)

    def finish_move(self, slot: int) -> None:
        """Move the keys that are left, and tell the masters who has the slot now: the new one first."""
        while self.move_some_keys(slot):
            pass
        source, to = self._moves[slot]
        others = [node for node in self.masters() if node not in (source, to)]
        for node in (to, source, *others):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        del self._moves[slot]
        _until(lambda: self._know(slot, to), f"all to know that {to} has slot {slot}")

    # -- waiting

    def await_health(self) -> None:
        """Until the nodes that answer say the same: all slots are served, by whom, all are in step, and none fails."""
        _until(self._is_healthy, "the cluster to be whole")
        self._note_elections()

    def await_in_step(self) -> None:
        """Until the replicas have every write that their masters have now."""
        offsets = {master: int(master.ask("ROLE")[1]) for master in self.masters()}

        def have_all() -> bool:
            return all(
                int(replica.ask("ROLE")[4]) >= offset
                for master, offset in offsets.items()
                for replica in self.replicas_of(master)
            )

        _until(have_all, "the replicas to be in step")

    def _is_healthy(self) -> bool:
        answering = [node for node in self.nodes if node.answers]
        views = {_view_of(node) for node in answering}
        if len(views) != 1 or not all(self._is_content(node) for node in answering):
            return False
        masters = _ports(next(iter(views)))
        roles = {node.port: node.ask("ROLE") for node in answering}
        followers = [role for role in roles.values() if role[0] == "slave"]
        leaders = {port: role for port, role in roles.items() if role[0] == "master"}
        return (
            leaders.keys() == masters
            and all(role[3] == "connected" and int(role[2]) in masters for role in followers)
            and sum(len(role[2]) for role in leaders.values()) == len(followers)
        )

    def _note_elections(self) -> None:
        masters = set(self.masters())
        if self._last_masters:  # the first ones were not elected
            self._elected_at |= dict.fromkeys(masters - self._last_masters, time.monotonic())
        self._last_masters = masters

    def _await_new_votes(self, node: Node) -> None:
        """Before a master fails whose replica was elected a moment ago: until the votes for it are void.

        Redis counts them again in the next election, which the replica then wins in an epoch that is over: nobody
        believes it, and the shard has no master until the failed one is back (github.com/redis/redis/pull/8753).
        """
        if node.answers:
            voted = [self._elected_at[one] for one in self.replicas_of(node) if one in self._elected_at]
            time.sleep(max(0.0, max(voted, default=0.0) + self._votes_count_s - time.monotonic()))

    def _know(self, slot: int, master: Node) -> bool:
        """Whether all believe that a master has a slot, and know how new that is: else it may be believed no more after
        the next move.
        """
        answering = [node for node in self.nodes if node.answers]
        epochs = {line for node in answering for line in node.ask("CLUSTER", "INFO").split() if _EPOCH in line}
        return len(epochs) == 1 and all(_has(node, slot, master) for node in answering)

    def _is_content(self, node: Node) -> bool:
        lines = node.ask("CLUSTER", "INFO").split()
        return (
            "cluster_state:ok" in lines
            and f"cluster_known_nodes:{len(self.nodes)}" in lines
            and not any("fail" in flags for flags in self._flags(node))
        )

    def _flags(self, node: Node) -> list[str]:
        """What a node believes of each that answers."""
        answering = {one.id for one in self.nodes if one.answers}
        fields = [line.split() for line in node.ask("CLUSTER", "NODES").splitlines()]
        return [flags for id, _, flags, *_ in fields if id in answering]

    def _view(self) -> View:
        return _view_of(next(node for node in self.nodes if node.answers))

    def _at(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def _new_node(self, number: int) -> Node:
        directory = self._directory / f"node-{number}"
        for attempt in range(_PORT_ATTEMPTS):
            try:
                return Node(self._server(directory, port=free_port()).start())
            except DurasleepError:
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
        raise AssertionError


class Clusters:
    """The clusters of one test session: three masters, each with a replica."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clusters: dict[str, Cluster] = {}

    def get(self, kind: str) -> Cluster:
        """The cluster of a kind, started if it is not running yet."""
        if kind not in self._clusters:
            cluster = self._clusters[kind] = Cluster(kind, self._directory / kind, replicas=1, persist=False)
            cluster.start()
        return self._clusters[kind]

    def stop(self) -> None:
        for cluster in self._clusters.values():
            cluster.stop()


def _view_of(node: Node) -> View:
    return frozenset((first, last, master[1]) for first, last, master, *_ in node.ask("CLUSTER", "SLOTS"))


def _has(node: Node, slot: int, master: Node) -> bool:
    """Whether a node believes that a master has a slot."""
    return any(first <= slot <= last and port == master.port for first, last, port in _view_of(node))


def _ports(view: View) -> set[int]:
    return {port for _, _, port in view}


def free_port() -> int:
    """A port for a node, that is free together with its bus port."""
    while True:
        port = random.choice(_PORTS)
        try:
            for one in (port, port + _BUS):
                with socket.socket() as taken:
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    taken.bind((HOST, one))
        except OSError:
            continue
        return port


def _until(look: Callable[[], bool], what: str) -> None:
    """Until it is so; a node that does not answer yet has not said it. AssertionError after half a minute."""
    give_up_at = time.monotonic() + _PATIENCE_S
    problem: Exception | None = None
    while True:
        try:
            if look():
                return
        except redis.RedisError as error:
            problem = error
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited in vain for {what}") from problem
        time.sleep(_LOOK_S)
