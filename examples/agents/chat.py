"""A chat with an agent that lasts for months: it may be watched while it speaks, and waits for its user for a week.

As a worker:   durasleep worker examples.agents.chat:app
As a client:   durasleep ask chat-ada question "What is 6 times 7?" --timeout 30s --start chat    prints: That is 42.
               durasleep ask chat-ada question "And 2 plus 4?" --timeout 30s                      prints: That is 6.

In another terminal, `durasleep view chat-ada --follow` shows what the agent says while it says it. A script stands in
for the model. For a real one, set AGENT_MODEL=openai:gpt-5 (or another name that pydantic-ai knows), and the key that
its provider wants.
"""

import os
import re
from collections.abc import AsyncIterator

from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelRequest,
    ToolReturnPart,
    UsageLimits,
    UserPromptPart,
)
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from durasleep import Context, Durasleep
from durasleep.contrib.pydantic_ai import DurasleepDurability, pack_messages, publish_text, unpack_messages

EACH_RUN = 5  # questions: the next run begins with their messages and an empty journal, so that a replay is quick

app = Durasleep()


async def follow_script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    """What a real model would say, piece by piece."""
    newest = messages[-1]
    assert isinstance(newest, ModelRequest)
    results = [str(part.content) for part in newest.parts if isinstance(part, ToolReturnPart)]
    questions = [str(part.content) for part in newest.parts if isinstance(part, UserPromptPart)]
    sums = re.findall(r"(\d+) (times|plus) (\d+)", questions[-1]) if questions else []
    for index, (left, what, right) in enumerate(sums):
        yield {index: DeltaToolCall("calculate", f'{{"left": {left}, "what": "{what}", "right": {right}}}')}
    if not sums:
        for piece in (f"That is {' and '.join(results)}." if results else "I can only count.").split(" "):
            yield f"{piece} "


agent = Agent(
    os.environ.get("AGENT_MODEL") or FunctionModel(stream_function=follow_script),
    name="chat",
    instructions="You count for your user. Use the tool for every sum.",
    capabilities=[DurasleepDurability(event_stream_handler=publish_text)],
)


@agent.tool_plain
def calculate(left: int, what: str, right: int) -> int:
    """Multiply (`times`) or add (`plus`) two numbers."""
    return left * right if what == "times" else left + right


@app.workflow
async def chat(ctx: Context, history: bytes = b"", questions: int = 0) -> int:
    messages = unpack_messages(history)
    async for message in ctx.messages("question", str, timeout="7d"):
        ctx.publish(status="thinking", questions=questions)
        try:
            result = await agent.run(
                message.value, message_history=messages, usage_limits=UsageLimits(request_limit=10)
            )
        except AgentRunError as error:
            await message.reply(error=error)
            continue
        messages, questions = result.all_messages(), questions + 1
        await message.reply(result.output.strip())
        if questions % EACH_RUN == 0:
            ctx.continue_as_new(pack_messages(messages), questions)
        ctx.publish(status="waiting", questions=questions)
    return questions
