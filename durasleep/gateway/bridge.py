"""The bridge: carries what promises of Resonate have to tell to executions, and runs the workers of bridged groups.

What executions have to tell to promises is carried by whoever fires their timers, see ``worker.loops.relay``. Several
gateways may run it at once: what one of them takes, the others leave alone for a few seconds, and each step may be
done twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from durasleep.client.client import store_of
from durasleep.codec import resonate as values
from durasleep.errors import (
    CorruptData,
    DurasleepError,
    LimitFull,
    NotAllowed,
    NotFound,
    StoreError,
    TimedOut,
    UsageError,
)
from durasleep.gateway.bridge_outward import Outward
from durasleep.gateway.gateway import Gateway
from durasleep.model import Disposition, Kind, PromiseId, State, check_name, owner_of
from durasleep.protocol import bridge, journal, promises, resonate
from durasleep.protocol.bridge import Promise
from durasleep.protocol.commit import NOT_KNOWN
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.resonate import Message
from durasleep.protocol.versions import RESONATE
from durasleep.query import declaring
from durasleep.transport.store import Store
from durasleep.worker.worker import Worker

LOOK_S = 2.0  # between two looks if no hint comes: what could not be carried comes again then
CARRIED_MAX = 100  # promises that are carried at the same time
LEFT_MS_MAX = 60_000  # until what no gateway could read is tried again
REQUIRE_AGAIN_S = 1.0  # while a worker of an older version is alive: a deployment replaces it
CONCURRENCY = 100  # executions of one bridged group whose promises are made at the same time

logger = logging.getLogger("durasleep")


class Bridge:
    """One for each gateway."""

    address = resonate.OURS

    def __init__(self, gateway: Gateway, groups: Collection[str] = ()) -> None:
        """``groups`` are those whose functions live in workers of another language; InvalidId if one is no name."""
        self._gateway = gateway
        self._groups = [check_name(group, "group") for group in dict.fromkeys(groups)]
        self.ready = asyncio.Event()
        """Set when it carries, and the workers of its groups read."""
        self._store: Store
        self._codec = gateway.client.codec
        self._carrying: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Carry until it is cancelled; then the workers of its groups leave within their grace time."""
        opened = await store_of(self._gateway.client)
        self._store = Store(
            opened.connector,
            namespace=opened.namespace,
            settings=opened.settings,
            name="bridge",
            partitions=opened.partitions,
        )
        outward = Outward(self._store, self._answer)
        try:
            if self._groups:
                await self._require()
            workers = [self._worker(group, outward) for group in self._groups]
            await self._serve(workers)
        finally:
            for task in self._carrying.values():
                task.cancel()
            await asyncio.gather(*self._carrying.values(), return_exceptions=True)
            await outward.close()
            await self._store.aclose()

    def _worker(self, group: str, outward: Outward) -> Worker:
        return Worker(
            self._store.connector,
            outward.registry,
            self._codec,
            namespace=self._store.namespace,
            group=group,
            concurrency=CONCURRENCY,
            settings=self._store.settings,
        )

    async def _serve(self, workers: list[Worker]) -> None:
        serving = [asyncio.create_task(worker.run(), name=f"durasleep-bridge-{worker.group}") for worker in workers]
        looking = asyncio.create_task(self._look(), name="durasleep-bridge")
        announcing = asyncio.create_task(self._announce(workers))
        try:
            done, _ = await asyncio.wait([looking, *serving], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for worker in workers:
                worker.stop()
            for task in (looking, announcing):
                task.cancel()
            await asyncio.gather(looking, announcing, *serving, return_exceptions=True)

    async def _announce(self, workers: list[Worker]) -> None:
        for worker in workers:
            await worker.ready.wait()
        self.ready.set()

    async def _require(self) -> None:
        """Workers of older versions would not tell promises how executions have ended: wait until none is left."""
        if RESONATE in self._store.partitions.features:
            return
        has_said = False
        while True:
            try:
                await self._store.run(declaring.require(self._store.keyspaces, RESONATE))
            except NotAllowed as error:
                if not has_said:
                    logger.warning("the bridge has to wait: %s", error)
                has_said = True
            else:
                self._store.partitions.features.add(RESONATE)
                return
            await asyncio.sleep(REQUIRE_AGAIN_S)

    # -- what promises have to tell

    def room(self) -> int:
        """See ``Mailbox``."""
        return CARRIED_MAX - len(self._carrying)

    def deliver(self, messages: Sequence[Message]) -> None:
        """Carry them, without waiting for it."""
        for message in messages:
            try:
                found = msgspec.json.decode(message.body)
            except ValueError as error:
                logger.error("a promise that has something to tell cannot be read (%s): %r", error, message.body[:200])
                continue
            id = found["promise"]["id"]
            if id not in self._carrying:
                self._carrying[id] = task = asyncio.create_task(self._carry(found["promise"], found.get("task")))
                task.add_done_callback(partial(self._end_carrying, id))

    def _end_carrying(self, id: str, _: asyncio.Task[None]) -> None:
        is_full = not self.room()
        del self._carrying[id]
        if is_full:
            self._gateway.delivery.wake()

    async def _look(self) -> None:
        """Take what there is, and look again now and then: a hint may be lost."""
        delivery = self._gateway.delivery
        delivery.open(self)
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                delivery.wake()
        finally:
            delivery.close(self)

    async def _carry(self, promise: Promise, task: dict[str, Any] | None) -> None:
        """Carry what one promise has to tell. If that fails, it is taken again a few seconds later."""
        keys = resonate.keys_of(self._store.keyspaces, promise["id"])
        try:
            is_pending = promise["state"] == "pending"
            if is_pending and bridge.is_inward(promise) and task is not None and task["state"] == "pending":
                await self._begin(keys, promise, task)
                return
            if is_pending and bridge.is_inward(promise) and task is not None:
                await self._finish(keys, promise)
            if not is_pending:
                await self._answer(promise)
                await self._cancel(promise)
            await self._store.call(resonate.carried(keys, promise["id"]))
        except CorruptData as problem:
            await self._leave(keys, promise, problem)
        except StoreError as error:
            logger.warning("what the promise %s has to tell is carried again: %s", promise["id"], error)
        except Exception:
            logger.exception("what the promise %s has to tell cannot be carried now", promise["id"])

    async def _leave(self, keys: Keyspace, promise: Promise, problem: CorruptData) -> None:
        """Leave to another gateway what our codec cannot read. It is tried again after as long as it has waited."""
        waited_ms = round(time.time() * 1000) - (promise.get("settledAt") or promise["createdAt"])
        more_ms = min(max(waited_ms, 0), LEFT_MS_MAX)
        logger.warning(
            "what the promise %s has to tell cannot be read here, and is left to another gateway: %s",
            promise["id"],
            problem,
        )
        with suppress(StoreError):
            await self._store.call(resonate.look_later(keys, promise["id"], more_ms))

    async def _begin(self, keys: Keyspace, promise: Promise, task: dict[str, Any]) -> None:
        """Make the execution of an inward promise, and hold its task."""
        await self._require()
        try:
            id, answer = await self._create(keys, promise)
        except (UsageError, LimitFull) as error:
            await self._end(keys, promise, "rejected", values.encode_error(error))
            return
        if answer.state is not State.PENDING:
            await self._end(keys, promise, *values.encode_ending(self._codec, id, answer.state, answer.value))
            return
        if task["version"] and answer.disposition is Disposition.CREATED and await self._is_unknown(id):
            unknown = NotFound(f"no worker of group {bridge.group_of(promise)} knows the function {answer.function!r}")
            await self._end(keys, promise, "rejected", values.encode_error(unknown))
            await self._store.call(promises.control(self._store.keys(id), "cancel", id))
            return
        status, _ = bridge.answer_of(await self._store.call(resonate.rpc(keys, bridge.acquire(task))))
        if status == 200:
            return
        _, found = bridge.answer_of(await self._store.call(resonate.rpc(keys, bridge.get(promise["id"]))))
        if found and found["promise"]["state"] != "pending":  # meanwhile, perhaps before there was an execution
            await self._cancel(found["promise"])
            await self._store.call(resonate.carried(keys, promise["id"]))

    async def _finish(self, keys: Keyspace, promise: Promise) -> None:
        """End an inward promise whose execution has ended: a worker that should have told it could not read how."""
        id = bridge.execution_id(promise["id"])
        attach = bridge.attach(self._store.keys(id), id, idempotency_key=_made_by(promise))
        with suppress(NotFound):
            found = await self._store.call(attach)
            if found.state is not State.PENDING:
                await self._end(keys, promise, *values.encode_ending(self._codec, id, found.state, found.value))

    async def _is_unknown(self, id: PromiseId) -> bool:
        """Whether it waits for a worker that knows its function."""
        record = await self._store.call(journal.read_record(self._store.keys(id), id))
        return record is not None and record.reason.startswith(NOT_KNOWN)

    async def _create(self, keys: Keyspace, promise: Promise) -> tuple[PromiseId, promises.Created]:
        id = bridge.execution_id(promise["id"])
        function, args, kwargs = values.decode_call(promise["param"])
        answer = await self._store.call(
            promises.create(
                self._store.keys(id),
                id,
                kind=Kind.EXECUTION,
                function=function,
                queue=bridge.group_of(promise) or "",
                args=self._codec.encode_args(args, kwargs, function),
                deadline=bridge.deadline_of(promise),
                waiter=bridge.waiter(keys.partition, promise["id"]),
                idempotency_key=_made_by(promise),
            )
        )
        if answer.disposition is Disposition.DROPPED:
            raise LimitFull(f"the limit of {function} has no room for another one: {id} was not started")
        return id, answer

    async def _end(self, keys: Keyspace, promise: Promise, state: str, value: values.Value) -> None:
        bridge.answer_of(await self._store.call(resonate.rpc(keys, bridge.settle(promise["id"], state, value))))
        await self._store.call(resonate.carried(keys, promise["id"]))

    async def _cancel(self, promise: Promise) -> None:
        """Cancel the execution that an inward promise has made, if the promise has ended without it."""
        if not bridge.is_inward(promise) or promise["state"] == "rejected_timedout":  # it has the same deadline
            return
        try:
            id = bridge.execution_id(promise["id"])
            keys = self._store.keys(id)
            found = await self._store.call(bridge.attach(keys, id, idempotency_key=_made_by(promise)))
            if found.disposition is Disposition.CREATED and found.state is State.PENDING:
                await self._store.call(promises.control(keys, "cancel", id))
        except (UsageError, NotFound):
            return

    async def _answer(self, promise: Promise) -> None:
        """Tell the execution of an outward promise how the promise has ended."""
        waiting = bridge.answers(promise)
        owner = None if waiting is None else owner_of(waiting[1])
        if waiting is None or owner is None:
            return
        incarnation, entry_id = waiting
        keys, id = self._store.keys(owner[0]), owner[0]
        try:
            record = await self._store.call(journal.read_record(keys, id))
            if record is None or record.incarnation != incarnation or record.state is not State.PENDING:
                return
            if promise["state"] == "rejected_canceled":
                await self._store.call(promises.control(keys, "cancel", id))
                return
            if promise["state"] == "rejected_timedout" and 0 < record.deadline_ms <= promise["timeoutAt"]:
                return  # the execution has ended at the same time
            if record.args:  # what cannot read the call, cannot write the answer: another gateway can
                self._codec.show_args(record.args)
            state, payload = self._read(promise, entry_id)
            await self._store.call(promises.settle(keys, entry_id, state, payload))
        except (NotFound, NotAllowed):  # it has ended meanwhile, and was begun anew
            return

    def _read(self, promise: Promise, entry_id: PromiseId) -> tuple[State, bytes]:
        """The state and the payload that the waiting entry gets."""
        where = bridge.target_group_of(promise)
        try:
            if promise["state"] == "resolved":
                value = values.decode_value(promise["value"], f"the result of {promise['id']}")
                return State.RESOLVED, self._codec.encode(value, f"the result of {entry_id}")
            if promise["state"] == "rejected_timedout":
                raise TimedOut(f"the deadline of the promise {promise['id']} passed")
            raise values.decode_error(promise["value"], where)
        except DurasleepError as error:
            return State.REJECTED, self._codec.encode_error(error)


def _made_by(promise: Promise) -> str:
    """The idempotency key of the execution that an inward promise makes."""
    return f"{bridge.PID} {promise['createdAt']}"
