"""The heartbeat: a thread with its own connection, so that a blocked event loop keeps its leases.

A lease lasts as long as its holder's heartbeat. If the loop is blocked for ``stall_max_s``, the heartbeat stops, and
other workers get the leases.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace

from durasleep.errors import DurasleepError, SchemaMismatch, StoreRefused, StoreUnavailable
from durasleep.protocol import membership, server, versions
from durasleep.protocol.command import Call, Command, unwrap
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.settings import Settings
from durasleep.transport import handshake
from durasleep.transport.connector import Connector
from durasleep.transport.outage import Outage
from durasleep.transport.partitions import Partitions
from durasleep.transport.reply_errors import is_of_moving_slot
from durasleep.transport.server_clock import monotonic_us
from durasleep.transport.sync_store import SyncStore

logger = logging.getLogger("durasleep")

TTL_MS = 90_000  # expiry of the worker's own keys: long after other workers have found it dead
TTL_BEATS = 10  # and at least this many of its beats


class Heartbeat:
    """Sends a beat every ``heartbeat_s`` and passes each answer on."""

    def __init__(
        self,
        connector: Connector,
        partitions: Partitions,
        *,
        namespace: str,
        consumer: str,
        group: str,
        settings: Settings,
        held: Callable[[], list[Lease]],
        served: Callable[[], Iterable[Keyspace]],
        functions: Callable[[Keyspace], str],
        lost_threads: Callable[[], int],
        blocked_ms: Callable[[], int],
        slots: int,
        on_beat: Callable[[Beat, int, int], None],
        on_unfit: Callable[[SchemaMismatch], None],
        on_unserved: Callable[[Keyspace], None],
        knows_namespace: Callable[[], bool],
        is_stalled: Callable[[], bool],
        outage: Outage,
    ) -> None:
        """``held``, ``served`` (the partitions to beat in), ``functions`` (a short hash of the functions it has, empty
        where it leaves), ``lost_threads``, ``blocked_ms`` (for how long the event loop has been blocked), ``on_beat``
        (with the monotonic times at which it was sent and received, in us), ``on_unfit`` (another version has taken
        over the namespace; there are no more beats), ``on_unserved`` (this node does not serve a partition now),
        ``knows_namespace`` (whether this node knows if the namespace still fits) and ``is_stalled`` (no beat is to be
        sent) are called in the heartbeat's thread. The worker runs ``slots`` executions at a time.
        """
        self._store = SyncStore(
            connector,
            namespace=namespace,
            settings=replace(settings, min_replicas=0, fsync=False),  # the next beat replaces a lost one
            name=consumer.partition("/")[0],
            patience_s=0.0,
            partitions=partitions,
        )
        self._outage = outage
        self._consumer = consumer
        self._group = group
        self._settings = settings
        self._held = held
        self._served = served
        self._functions = functions
        self._lost_threads = lost_threads
        self._blocked_ms = blocked_ms
        self._slots = slots
        self._on_beat = on_beat
        self._on_unfit = on_unfit
        self._on_unserved = on_unserved
        self._knows_namespace = knows_namespace
        self._is_stalled = is_stalled
        host = socket.gethostname().encode(errors="backslashreplace").decode()  # its bytes may not be valid text
        self._info = f"{host}:{os.getpid()}"
        self._beat_ms = round(settings.heartbeat_s * 1000)
        self._client_id = 0
        self._stop = threading.Event()
        self._ended: Future[None] = Future()
        self._under_way: Future[None] | None = None
        """The beat that is being sent now."""
        self._thread: threading.Thread | None = None
        self._is_known = False

    @property
    def client_id(self) -> int:
        """The id of the heartbeat's connection, 0 before the first beat."""
        return self._client_id

    def once(self) -> list[Beat] | None:
        """A beat in each partition that it serves; None if the loop was blocked so long that the worker must not count
        as alive.
        """
        if self._is_stalled():
            return None
        spaces, checks = list(self._served()), self._knows_namespace()
        if not spaces and not checks:
            return []
        try:
            if self._client_id == 0:
                self._client_id = self._store.call(server.read_client_id())
            calls = self._calls(spaces, checks)
            sent_us = monotonic_us()
            answers = self._store.ask_once(calls)
            received_us = monotonic_us()
            problems = [answer for answer in answers if isinstance(answer, DurasleepError)]
            if len(problems) == len(answers):
                raise problems[0]
        except DurasleepError:
            self._client_id = 0  # the next connection has another one
            for keys in spaces:
                self._on_unserved(keys)
            raise
        beats: list[Beat] = []
        for keys, answer in zip(spaces, answers, strict=False):
            if isinstance(answer, Beat):
                beats.append(answer)
                self._on_beat(answer, sent_us, received_us)
            else:
                self._on_unserved(keys)
        if checks:
            self._check_namespace(unwrap(answers[-1]))
        if lasting := [problem for problem in problems if not is_of_moving_slot(problem)]:
            raise lasting[0]
        return beats

    def _check_namespace(self, meta: list[bytes | None]) -> None:
        """Check that it is still the one that we serve. If nothing is known of it any more, it gets the number of
        partitions that it had: the node that knew it may have lost its data, and others not theirs.
        """
        partitions = len(self._store.keyspaces)
        if handshake.check(self._store.namespace, meta, partitions):
            self._is_known = True
        elif partitions == 1:  # the next client that connects makes it again
            if self._is_known:
                logger.warning(
                    "Redis has lost namespace %r, and all that was in it: somebody has emptied it, or it came back "
                    "without its data; this worker serves what is called from now on",
                    self._store.namespace,
                )
            self._is_known = False
        else:
            answers = self._store.ask_once(versions.make_meta(self._store.namespace, partitions))
            if not any(isinstance(answer, DurasleepError) for answer in answers):
                logger.warning(
                    "Redis had lost what it knew of namespace %r: it has its %d partitions again",
                    self._store.namespace,
                    partitions,
                )

    def _calls(self, spaces: list[Keyspace], checks: bool) -> list[Call]:
        """The beats, and a check of the namespace's version, to be sent in one write."""
        held = self._held()
        calls: list[Call] = [
            self._beat_in(keys, [lease for lease in held if lease.partition == keys.partition]) for keys in spaces
        ]
        return [*calls, versions.read_meta(self._store.namespace)] if checks else calls

    def _beat_in(self, keys: Keyspace, held: list[Lease]) -> Command[Beat]:
        return membership.heartbeat(
            keys,
            self._consumer,
            self._group,
            client_id=self._client_id,
            info=self._info,
            knows=handshake.KNOWS,
            ttl_ms=max(TTL_MS, TTL_BEATS * self._beat_ms),
            held=held,
            beat_ms=self._beat_ms,
            functions=self._functions(keys),
            lost_threads=self._lost_threads(),
            slots=self._slots,
            blocked_ms=self._blocked_ms(),
        )

    def start(self) -> Future[None]:
        """Beat in a thread from now on. The result is that of the first beat: if it fails, there are no more.

        All beats come from one thread, and so over one connection: other workers use its id, too.
        """
        first: Future[None] = Future()
        ended = self._ended = Future[None]()
        self._thread = threading.Thread(target=self._live, args=(first, ended), name="durasleep-heartbeat", daemon=True)
        self._thread.start()
        return first

    def stop(self) -> None:
        """End after the current beat."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._settings.heartbeat_s)
        self._store.close()

    def close(self) -> None:
        """Close the connection; there are no more beats."""
        self._store.close()

    async def leave(self) -> None:
        """The same, waiting in the event loop: user code may have left no thread to wait in."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.wait((asyncio.wrap_future(self._ended),), timeout=self._settings.heartbeat_s)
        self._store.close()

    async def settled(self) -> None:
        """Wait for the beat under way, which may not know yet what ``served`` returns now."""
        if (under_way := self._under_way) is not None:
            await asyncio.wrap_future(under_way)

    def _beat(self) -> None:
        """One beat, on a new connection if the old one was cut: a missed beat would look like a death."""
        under_way = self._under_way = Future[None]()
        under_way.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it
        try:
            self.once()
        except StoreUnavailable:
            self.once()
        finally:
            self._under_way = None
            under_way.set_result(None)

    def _live(self, first: Future[None], ended: Future[None]) -> None:
        try:
            self._run(first)
        finally:
            ended.set_result(None)

    def _run(self, first: Future[None]) -> None:
        if not first.set_running_or_notify_cancel():
            return
        try:
            self.once()
        except BaseException as error:  # noqa: BLE001 - awaiting the first beat raises it
            first.set_exception(error)
            return
        first.set_result(None)
        next_at = time.monotonic() + self._settings.heartbeat_s
        while not self._stop.wait(max(0.0, next_at - time.monotonic())):
            next_at = time.monotonic() + self._settings.heartbeat_s
            try:
                self._beat()
            except (StoreUnavailable, StoreRefused) as error:
                self._outage.report(error)
            except SchemaMismatch as error:
                self._on_unfit(error)
                return
            except Exception:
                logger.exception("a heartbeat failed")
