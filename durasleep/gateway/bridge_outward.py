"""Outward: the functions of a bridged group live in workers of another language.

For each execution that the worker of such a group takes, it makes a promise that a worker there fulfils, and suspends
the execution until the promise has told how it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from durasleep.codec import resonate as values
from durasleep.errors import NotFound, StoreError, UsageError
from durasleep.model import PromiseId, State, owner_of
from durasleep.observe import logs
from durasleep.protocol import bridge, resonate
from durasleep.runtime.context import Context
from durasleep.runtime.current import current
from durasleep.runtime.definition import AnyFunction, Definition, Registry, WorkflowDefinition
from durasleep.transport.store import Store

ASK_AGAIN_S = 1.0  # while Redis is full or rejects our permissions; doubled each time
ASK_AGAIN_MAX_S = 30.0
CLOSE_S = 2.0

logger = logging.getLogger("durasleep")


class AnyFunctions(Registry):
    """Knows every name of a function, and runs the same workflow for all."""

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self._fn = fn

    def get(self, name: str) -> Definition:
        return WorkflowDefinition(name, self._fn, registry=self)

    def get_version(self, name: str, version: int) -> WorkflowDefinition | None:
        return WorkflowDefinition(name, self._fn, registry=self) if version == 1 else None

    def called(self, fn_or_name: AnyFunction | str) -> Definition | None:  # noqa: ARG002 - none is known by more than its name
        return None

    @property
    def fingerprint(self) -> str:
        """No other worker has it, so what that does not know is offered to this one."""
        return "bridged+"

    def described(self) -> str:
        return "any function, for workers of another language"


class Outward:
    """Makes the promises for the executions of bridged groups."""

    def __init__(self, store: Store, carry: Callable[[bridge.Promise], Any]) -> None:
        """``carry`` tells an execution how its promise has ended."""
        self._store = store
        self._carry = carry
        self._asking: set[asyncio.Task[None]] = set()
        self.registry = AnyFunctions(self._workflow())

    def _workflow(self) -> Callable[..., Any]:
        async def bridged(ctx: Context, /, *args: Any, **kwargs: Any) -> Any:
            """Any function: its promise has the arguments, and the entry ``answer`` gets its result."""
            info = ctx.info
            param = values.encode_call(info.function, args, kwargs)  # first: a wrong argument makes nothing
            answer = ctx.promise(name="answer")
            await ctx.run(partial(ask_promise, self), answer.id, info.incarnation, info.group, param)
            return await answer

        return bridged

    async def close(self) -> None:
        """Wait for what is being asked."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=CLOSE_S)

    async def ask(self, entry_id: PromiseId, incarnation: int, group: str, param: values.Value) -> None:
        """Make the promise of an execution and listen to it. This may be repeated.

        It goes on if the execution is canceled meanwhile: else a promise might stay that nobody waits for.
        """
        asking = asyncio.create_task(self._ask(entry_id, incarnation, group, param))
        self._asking.add(asking)
        asking.add_done_callback(self._end_asking)
        await asyncio.shield(asking)

    def _end_asking(self, asking: asyncio.Task[None]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # whoever has asked gets it, unless it was canceled

    async def _ask(self, entry_id: PromiseId, incarnation: int, group: str, param: values.Value) -> None:
        # The waiter is there before the promise: an execution that ends from here on cancels it.
        owner = owner_of(entry_id)
        assert owner is not None
        id, tag = owner[0], f"{incarnation} {entry_id}"
        deadline = current().deadline
        deadline_ms = bridge.FOREVER_MS if deadline is None else round(deadline.timestamp() * 1000)
        for number in (None, incarnation):
            promise_id = bridge.promise_id(id, number)
            keys = resonate.keys_of(self._store.keyspaces, promise_id)
            waiter = bridge.waiter(keys.partition, promise_id, is_outward=True)
            attach = bridge.attach(self._store.keys(id), id, waiter=waiter)
            if await self._has_ended(attach):
                return
            create = bridge.create_outward(promise_id, group, param, deadline_ms=deadline_ms, answers=tag)
            promise = await self._rpc(keys, create)
            if promise["tags"].get(bridge.ANSWERS) == tag:
                break
            if bridge.answers(promise) is None:
                raise UsageError(
                    f"there is already a promise {promise_id!r} that durasleep has not made: call it with another id"
                )
        else:
            raise UsageError(f"there are already promises of {id!r} that stand for other calls")
        listened = await self._rpc(keys, bridge.listen(promise_id, group))
        if listened["state"] != "pending":
            await self._carry(listened)
        elif await self._has_ended(attach):  # meanwhile, and nobody has told the promise
            ending = values.encode_error(UsageError(f"{id} has ended"))
            await self._rpc(keys, bridge.settle(promise_id, "rejected_canceled", ending))

    async def _has_ended(self, attach: Any) -> bool:
        try:
            return (await self._store.call(attach)).state is not State.PENDING
        except NotFound:
            return True

    async def _rpc(self, keys: Any, request: bytes) -> bridge.Promise:
        _, data = bridge.answer_of(await self._store.call(resonate.rpc(keys, request)))
        return data["promise"]


async def ask_promise(outward: Outward, entry_id: PromiseId, incarnation: int, group: str, param: values.Value) -> None:
    """The step of a bridged execution; a Redis that is full, or rejects our permissions, is asked again."""
    delay_s = ASK_AGAIN_S
    while True:
        try:
            return await outward.ask(entry_id, incarnation, group, param)
        except StoreError as error:
            about = logs.about(entry_id.rpartition("~")[0])
            logger.warning("the promise of %s is asked for again in %.0f s: %s", entry_id, delay_s, error, extra=about)
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, ASK_AGAIN_MAX_S)
