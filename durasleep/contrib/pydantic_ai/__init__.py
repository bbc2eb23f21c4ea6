"""Agents of pydantic-ai whose model requests and tool calls are steps of a workflow.

    agent = Agent("openai:gpt-5", name="support", capabilities=[DurasleepDurability()])

    @app.workflow
    async def support(ctx: Context, question: str) -> str:
        return (await agent.run(question)).output

It is built on ``pydantic_ai.durable_exec``, which pydantic-ai offers to engines like this one. Outside of a workflow
the agent is a plain one.
"""

try:
    from pydantic_ai.durable_exec import conversation_id_from_run_id as _  # noqa: F401 - new in 2.62
except ImportError as error:
    raise ImportError(
        'durasleep.contrib.pydantic_ai needs pydantic-ai-slim, 2.62 or newer: pip install "durasleep[ai]"'
    ) from error

from durasleep.contrib.pydantic_ai.durability import DurasleepDurability
from durasleep.contrib.pydantic_ai.packing import pack_messages, unpack_messages
from durasleep.contrib.pydantic_ai.people import APPROVAL, Approval, ask_person
from durasleep.contrib.pydantic_ai.text import publish_text
from durasleep.runtime.context import current_context

__all__ = [
    "APPROVAL",
    "Approval",
    "DurasleepDurability",
    "ask_person",
    "current_context",
    "pack_messages",
    "publish_text",
    "unpack_messages",
]
