"""Tool calls that wait for a person, who answers on a channel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic_ai import RunContext, ToolDenied
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults

from durasleep.channel import Channel
from durasleep.errors import TimedOut
from durasleep.model import Duration, duration_ms
from durasleep.runtime.context import running_context

_ARGS_SHOWN_MAX = 200  # characters of a call that waits: all that is published has at most 4 KiB
_CALLS_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's answer to a tool call that needs approval."""

    approved: bool
    tool_call_id: str = ""
    """Which of several calls it answers; empty for all that wait."""
    message: str = ""
    """For the model, if the call is denied: why."""


APPROVAL = Channel("approval", Approval)
"""The channel on which ``ask_person`` waits."""


Handler = Callable[[RunContext[Any], DeferredToolRequests], Awaitable[DeferredToolResults | None]]


def ask_person(*, channel: Channel[Approval] = APPROVAL, timeout: Duration | None = None) -> Handler:
    """Lets tool calls that need approval wait for a person; for ``HandleDeferredToolCalls`` of pydantic-ai::

        agent = Agent(..., capabilities=[DurasleepDurability(), HandleDeferredToolCalls(ask_person(timeout="3d"))])

    The workflow publishes the calls that wait as ``approvals``, and waits on the ``channel``. Anybody answers by the id
    of the execution::

        durasleep send support-7 approval '{"approved": false, "message": "too much"}'

    What nobody has answered after ``timeout`` (seconds, a timedelta, or text such as ``"3d"``) is denied. By default it
    waits for ever. Outside of a workflow, the calls are the output of the run, as they are without it.
    """
    timeout_ms = None if timeout is None else duration_ms(timeout, "timeout")

    async def handle(_: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults | None:
        workflow = running_context()
        if workflow is None or not requests.approvals:
            return None
        waiting = {call.tool_call_id: call for call in requests.approvals}
        answers: dict[str, bool | ToolDenied] = {}
        until = None if timeout_ms is None else workflow.now() + timedelta(milliseconds=timeout_ms)
        while waiting:
            workflow.publish(
                status=f"waits for approval of {', '.join(sorted({call.tool_name for call in waiting.values()}))}"[
                    :200
                ],
                approvals=[
                    {"tool_call_id": id, "tool": call.tool_name, "args": call.args_as_json_str()[:_ARGS_SHOWN_MAX]}
                    for id, call in list(waiting.items())[:_CALLS_SHOWN_MAX]
                ],
            )
            left = None if until is None else max(until - workflow.now(), timedelta())
            try:
                answer = await workflow.receive(channel, timeout=left)
            except TimedOut:
                answers |= dict.fromkeys(waiting, ToolDenied("Nobody has answered in time."))
                break
            for id in [answer.tool_call_id] if answer.tool_call_id else list(waiting):
                if waiting.pop(id, None) is None:
                    workflow.logger.warning("no tool call %r waits for approval", id)
                elif answer.approved:
                    answers[id] = True
                else:
                    answers[id] = ToolDenied(answer.message or "A person has denied this.")
        workflow.publish(status="", approvals=[])
        return requests.build_results(approvals=answers)

    return handle
