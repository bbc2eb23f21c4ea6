"""What a model says, published while it says it."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from pydantic_ai import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    PartDeltaEvent,
    PartStartEvent,
    RunContext,
    TextPart,
    TextPartDelta,
)

from durasleep.runtime.current import publish
from durasleep.runtime.waits import inside

_TEXT_SHOWN_MAX = 900  # characters, of at most 4 bytes each: all that is published has at most 4 KiB


async def publish_text(_: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
    """Lets people see what the model says while it says it; for ``DurasleepDurability(event_stream_handler=...)``.

    The step of the model request publishes ``text``, the last 900 characters, at most once a second: see
    ``durasleep view --follow`` and ``app.watch``. The step of a tool's event publishes ``tool``, its name.
    """
    text = ""
    async for event in events:
        if isinstance(event, FunctionToolCallEvent):
            _show(tool=event.part.tool_name)
            continue
        if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
            text += event.part.content
        elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            text += event.delta.content_delta
        else:
            continue
        _show(text=text[-_TEXT_SHOWN_MAX:])


def _show(**values: Any) -> None:
    """Outside of a step nobody could see it."""
    if inside() is not None:
        publish(**values)
