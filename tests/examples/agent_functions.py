"""Agents for the tests: their model follows a script, and what they do is written down."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    CustomEvent,
    FunctionToolset,
    ModelMessage,
    ModelRetry,
    RunContext,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UsageLimits,
    UserPromptPart,
)
from pydantic_ai.capabilities import HandleDeferredToolCalls, RequestInput
from pydantic_ai.messages import FunctionToolCallEvent, FunctionToolResultEvent, ModelResponse
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.toolsets import DynamicToolset
from pydantic_ai.usage import RequestUsage

from durasleep import Context, Durasleep, Retry
from durasleep.contrib.pydantic_ai import (
    DurasleepDurability,
    ask_person,
    current_context,
    pack_messages,
    publish_text,
    unpack_messages,
)
from tests.service.functions import NAMESPACE_VARIABLE, QUICK, note, stand_at

EFFECTS_VARIABLE = "AGENT_EFFECTS"

app = Durasleep(namespace=os.environ.get(NAMESPACE_VARIABLE, "agents"), settings=QUICK)

failures: list[Exception] = []
"""What the next requests raise, in this process; the last first."""
calls: list[str] = []
"""The requests and tool calls in this process."""


def script_of(messages: list[ModelMessage]) -> tuple[list[list[str]], list[str]]:
    """The last question, which is a script, and what the tools have returned since.

    The script ``a+b c`` asks for two tools at once, and then for one; ``.`` for none.
    """
    last = 0
    for index, message in enumerate(messages):
        if any(isinstance(part, UserPromptPart) for part in message.parts):
            last = index
    prompt = next(part for part in messages[last].parts if isinstance(part, UserPromptPart))
    parts = [part for message in messages[last:] for part in message.parts]
    told = [
        f"{part.tool_name}={part.content}"
        for part in parts
        if isinstance(part, ToolReturnPart) and part.outcome != "retried"
    ]
    return [word.split("+") for word in str(prompt.content).split() if word != "."], told


def speak(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Ask for the next tools of the script, and say at the end what they have returned."""
    if path := os.environ.get(EFFECTS_VARIABLE):
        note(path, "model")
    calls.append("model")
    if failures:
        raise failures.pop()
    rounds, told = script_of(messages)
    done = len(told)
    for names in rounds:
        if done < len(names):
            return ModelResponse([ToolCallPart(name, {}) for name in names], usage=RequestUsage(input_tokens=10))
        done -= len(names)
    if info.output_tools:
        return ModelResponse([ToolCallPart(info.output_tools[0].name, {"text": "; ".join(told) or "nothing"})])
    return ModelResponse([TextPart("; ".join(told) or "nothing")], usage=RequestUsage(output_tokens=5))


async def speak_slowly(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """The same, in pieces."""
    for part in speak(messages, info).parts:
        if isinstance(part, TextPart):
            for piece in part.content.split():
                yield f"{piece} "
        elif isinstance(part, ToolCallPart):
            yield {0: DeltaToolCall(part.tool_name, "{}")}


class Told(BaseModel):
    """An output with a type."""

    text: str


# -- agents

agent = Agent(
    FunctionModel(speak, stream_function=speak_slowly),
    name="tested",
    deps_type=str,
    instructions=lambda: "Follow the script.",
    capabilities=[
        DurasleepDurability(tool_retry=Retry(attempts=2, delay=0.01)),
        HandleDeferredToolCalls(ask_person(timeout="3d")),
    ],
)
typed = Agent(FunctionModel(speak), name="typed", output_type=Told, capabilities=[DurasleepDurability()])
streaming = Agent(
    FunctionModel(speak, stream_function=speak_slowly),
    name="streaming",
    capabilities=[DurasleepDurability(event_stream_handler=publish_text)],
)
helper = Agent(FunctionModel(speak), name="helper")
changing = Agent(
    FunctionModel(speak),
    name="changing",
    deps_type=str,
    toolsets=[DynamicToolset(lambda run: FunctionToolset([chosen], id=f"of-{run.deps}"), id="changing")],
    capabilities=[DurasleepDurability()],
)


asked: list[tuple[str, list[str]]] = []
"""The tokens that were handed out, and the calls that wait for them."""


def write_down(_: RunContext[str], requests: DeferredToolRequests, token: str) -> None:
    asked.append((token, [call.tool_call_id for call in requests.approvals]))


asking = Agent(
    FunctionModel(speak),
    name="asking",
    deps_type=str,
    capabilities=[DurasleepDurability(), RequestInput(write_down, timeout=timedelta(hours=1))],
)


@agent.tool
def quick(run: RunContext[str]) -> str:
    if run.deps:
        note(run.deps, "quick")
    return "1"


@agent.tool
async def slow(run: RunContext[str]) -> str:
    return await stand_at(run.deps, "slow")


@agent.tool_plain(retries=2)
def picky() -> str:
    calls.append("picky")
    if calls.count("picky") < 2:
        raise ModelRetry("not like this")
    return "fine"


@agent.tool_plain
def broken() -> str:
    calls.append("broken")
    raise LookupError("nothing there")


@agent.tool_plain(metadata={"durasleep": {"timeout": "0.05s", "retry": {"attempts": 1}}})
async def endless() -> str:
    calls.append("endless")
    await asyncio.sleep(60)
    return "never"


@asking.tool_plain(requires_approval=True)
@agent.tool_plain(requires_approval=True)
def refund() -> str:
    calls.append("refund")
    return "paid"


@agent.tool_plain(metadata={"durasleep": False})
async def later() -> str:
    ctx = current_context()
    await ctx.sleep("3d")
    return await ctx.receive("news", str)


@agent.tool_plain(metadata={"durasleep": False})
def inline() -> str:
    """A sync tool in the workflow: without a thread."""
    return current_context().info.id


@agent.tool
async def delegate(run: RunContext[str]) -> str:
    """Another agent, within the step of this tool."""
    return (await helper.run(".", usage=run.usage)).output


@agent.tool_plain(metadata={"durasleep": {"retries": 3}})
def wrong() -> str:
    return "never"


@agent.tool_plain
def huge() -> str:
    return "x" * 2_000_000


@agent.tool_plain
def strange() -> object:
    return object()


def chosen() -> str:
    calls.append("chosen")
    return "chosen"


@dataclass(kw_only=True)
class Halfway(CustomEvent):
    percent: int


@agent.tool
async def emits(run: RunContext[str]) -> str:
    await run.emit(Halfway(percent=50))
    return "done"


@streaming.tool_plain
def look() -> str:
    return "seen"


# -- workflows


@app.workflow
async def research(ctx: Context, effects: str, script: str, limit: int = 50) -> str:
    result = await agent.run(script, deps=effects, usage_limits=UsageLimits(request_limit=limit))
    return f"{result.output} [{result.usage.requests} requests]"


@app.workflow
async def all_messages(ctx: Context, script: str) -> bytes:
    """Everything that a run leaves, and what it would be in a replay."""
    result = await agent.run(script, deps="")
    await ctx.sleep("1h")
    return pack_messages(result.all_messages())


@app.workflow
async def questions(ctx: Context, script: str) -> str:
    return (await asking.run(script, deps="")).output


@app.workflow
async def ask_typed(ctx: Context, script: str) -> Told:
    return (await typed.run(script)).output


@app.workflow
async def stream(ctx: Context, script: str) -> str:
    return (await streaming.run(script)).output


SHOWN = FunctionToolCallEvent | CustomEvent | FunctionToolResultEvent


@app.workflow
async def events(ctx: Context, script: str) -> list[str]:
    """The events of the tools in a run."""
    async with agent.run_stream_events(script, deps="") as run:
        return [type(event).__name__ async for event in run if isinstance(event, SHOWN)]


@app.workflow
async def change(ctx: Context, script: str) -> str:
    return (await changing.run(script, deps="ada")).output


@app.workflow
async def too_late(ctx: Context, script: str) -> str:
    return (await agent.run(script, deps="", toolsets=[FunctionToolset([chosen], id="late")])).output


@app.workflow
async def long_chat(ctx: Context, history: bytes = b"", questions: int = 0) -> int:
    messages = unpack_messages(history)
    async for message in ctx.messages("question", str, timeout="7d"):
        result = await agent.run(message.value, deps="", message_history=messages)
        await message.reply(f"{result.output} after {len(messages)} messages")
        ctx.continue_as_new(pack_messages(result.all_messages()), questions + 1)
    return questions
