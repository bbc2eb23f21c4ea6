"""Tasks as executions of their own: called, tried again, committed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from durasleep import telemetry
from durasleep.codec import Codec
from durasleep.errors import UsageError
from durasleep.model import CANCEL, Kind, Number, Outcome, State, StepResult, duration_ms
from durasleep.runtime.definition import TaskDefinition
from durasleep.runtime.journal import TIMER_MS_MIN
from durasleep.store.reads import Loaded
from durasleep.worker.commits import Commits
from durasleep.worker.lines import Lines
from durasleep.worker.running import Running
from durasleep.worker.story import describe_since
from durasleep.worker.usercode import UserCode

logger = logging.getLogger("durasleep")


class Tasks:
    """Runs one task after the other; each in the asyncio task of its execution."""

    def __init__(self, codec: Codec, commits: Commits, code: UserCode, lines: Lines) -> None:
        self._codec = codec
        self._commits = commits
        self._code = code
        self._lines = lines

    async def run(self, running: Running, loaded: Loaded, definition: TaskDefinition) -> None:
        """Until it has ended or waits: its journal holds the attempts that failed, its outcome is the last."""
        lease, head = running.lease, loaded.head
        attempt = 1 + sum(entry.kind is Kind.STEP for entry in loaded.entries.values())
        began = time.monotonic()
        try:
            args, kwargs = self._codec.decode_args(head.args, definition.fn, skip_first=False)
        except UsageError as error:  # arguments that do not fit are the caller's error, and end it
            logger.warning("%s rejected: %s", lease.id, error)
            await self._commits.one(lease, Outcome.REJECT, payload=self._codec.encode_error(error))
            return
        while True:
            outcome, value = await self._attempt(running, definition, args, kwargs)
            retry = definition.retry
            if outcome is not Outcome.REJECT or retry is None or not retry.wants(value, attempt):
                break
            delay_ms = retry.delay_ms(attempt, random.random())
            failed = StepResult(Number(str(attempt)), definition.name, State.REJECTED, self._codec.encode_error(value))
            said = f"attempt {attempt} of {retry.attempts} failed: {type(value).__name__}: {value}"
            logger.warning("%s: %s; next in %s", lease.id, said, telemetry.describe_ms(delay_ms))
            if delay_ms >= TIMER_MS_MIN:
                await self._commits.one(lease, Outcome.RETRY, ops=[failed], payload=said.encode(), due=f"+{delay_ms}")
                return
            await self._commits.one(lease, Outcome.CONTINUE, ops=[failed])
            await asyncio.sleep(delay_ms / 1000)
            attempt += 1
        payload = self._codec.encode_error(value) if outcome is Outcome.REJECT else value
        is_open = any(entry.state is State.PENDING for entry in loaded.entries.values())
        await self._commits.one(lease, outcome, payload=payload, open=is_open)
        word = {Outcome.RESOLVE: "resolved", Outcome.REJECT: "rejected", Outcome.CANCEL: "canceled"}[outcome]
        if outcome is Outcome.REJECT or self._lines.has_room(word):
            level = logging.WARNING if outcome is Outcome.REJECT else logging.INFO
            logger.log(level, "%s %s after %s", lease.id, word, describe_since(began))

    async def _attempt(
        self, running: Running, definition: TaskDefinition, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[Outcome, Any]:
        """One call of a task: its outcome, and the encoded result or the error. A cancel is passed on to it."""
        timeout_s = None if definition.timeout is None else duration_ms(definition.timeout) / 1000
        task = asyncio.get_running_loop().create_task(self._code.call(definition.fn, args, kwargs, timeout_s))
        task.add_done_callback(lambda _: running.changed.set())
        try:
            while not task.done():
                await running.changed.wait()
                running.changed.clear()
                if running.news:
                    running.news = False
                    answer = await self._commits.one(running.lease, Outcome.CONTINUE)
                    if any(entry.number == CANCEL for entry in answer.entries):
                        task.cancel()
        except BaseException:
            task.cancel()
            raise
        try:
            return Outcome.RESOLVE, self._codec.encode(await task, f"the result of {definition.name}")
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr] - we run in a task
                raise
            return Outcome.CANCEL, b""
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises is its outcome
            return Outcome.REJECT, error
