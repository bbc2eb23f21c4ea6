"""What pydantic-ai has from 2.68 on: runs that wait for events from outside, and spans that a replay leaves out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic_ai.durable_exec import external_event_scope, replay_scope
from pydantic_ai.external_events import ExternalEventError, ExternalEventWaiter

from durasleep.errors import TimedOut
from durasleep.runtime.context import Context


@contextmanager
def durable_scope(workflow: Context) -> Generator[None]:
    """Around the run of an agent in a workflow."""
    with replay_scope(is_replaying=lambda: workflow.replaying), external_event_scope(_PromiseWaiter(workflow)):
        yield


class _PromiseWaiter(ExternalEventWaiter):
    """Waits for a promise, whose id is the token: ``app.resolve(token, answer)``, or ``durasleep resolve``."""

    def __init__(self, workflow: Context) -> None:
        self._workflow = workflow

    async def wait(self, name: str, *, ask: Callable[[str], Awaitable[Any]], timeout: timedelta | None) -> Any:
        """The answer of ``ask``, or the value of the promise."""
        promise = self._workflow.promise(timeout=timeout, name=name)
        answer = await self._workflow.run(_ask, partial(ask, promise.id))
        if answer is not None:
            promise.cancel()
            return answer
        try:
            return await promise
        except TimedOut as late:
            raise ExternalEventError(f"nobody has answered within {timeout}") from late
        except Exception as refusal:
            raise ExternalEventError(str(refusal)) from refusal


async def _ask(ask: Callable[[], Awaitable[Any]]) -> Any:
    return await ask()


_ask.__qualname__ = "ask"
