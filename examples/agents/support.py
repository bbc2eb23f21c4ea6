"""A support agent: it looks things up, asks a person before it pays, and comes back days later.

As a worker:   durasleep worker examples.agents.support:app
As a client:   durasleep rpc case-7 support "Order 1042 came broken." --no-wait
               durasleep view case-7                                           says: waits for approval of refund
               durasleep send case-7 approval '{"approved": true}'
               durasleep get case-7                                            shows its steps, and its sleep

Each model request and tool call is a step: after a crash, nothing is asked or paid again that was done before. A script
stands in for the model. For a real one, set AGENT_MODEL=openai:gpt-5 (or another name that pydantic-ai knows), and the
key that its provider wants.
"""

import os
from dataclasses import dataclass

from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelResponse,
    RunContext,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UsageLimits,
    UserPromptPart,
)
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.models.function import AgentInfo, FunctionModel

from durasleep import Context, Durasleep, Retry, current
from durasleep.contrib.pydantic_ai import DurasleepDurability, ask_person

app = Durasleep()


def follow_script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """What a real model would decide: look up, refund, tell the customer."""
    parts = [part for message in messages for part in message.parts]
    done = {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}
    if sum(isinstance(part, UserPromptPart) for part in parts) > 1:
        return ModelResponse([TextPart("Has your new teapot arrived in one piece?")])
    if "find_order" not in done:
        return ModelResponse(
            [ToolCallPart("find_order", {"number": 1042}), ToolCallPart("read_policy", {"about": "broken goods"})]
        )
    if "refund" not in done:
        return ModelResponse([ToolCallPart("refund", {"number": 1042, "cents": 4200})])
    return ModelResponse([TextPart(f"We are sorry. {done['refund']}")])


@dataclass
class Customer:
    """What the tools know beside their arguments. They may not change it: a replay would not know."""

    mail: str


agent = Agent(
    os.environ.get("AGENT_MODEL") or FunctionModel(follow_script),
    name="support",
    deps_type=Customer,
    instructions="You help customers of a shop that sells teapots. Look up the order and the policy before you refund.",
    capabilities=[DurasleepDurability(), HandleDeferredToolCalls(ask_person(timeout="3d"))],
)


@agent.tool_plain
def find_order(number: int) -> dict[str, str | int]:
    """Find an order by its number."""
    return {"number": number, "what": "teapot", "cents": 4200}


@agent.tool_plain(metadata={"durasleep": {"retry": Retry(attempts=3), "timeout": "10s"}})
def read_policy(about: str) -> str:
    """Read what the shop has promised its customers."""
    return f"For {about}, the price is refunded."


@agent.tool(requires_approval=True)
def refund(run: RunContext[Customer], number: int, cents: int) -> str:
    """Pay money back to the customer."""
    print(f"{cents / 100:.2f} EUR of order {number} to {run.deps.mail}, once for {current().idempotency_key}")
    return f"We have refunded {cents / 100:.2f} EUR."


@app.workflow
async def support(ctx: Context, complaint: str, mail: str = "ada@example.org", days: float = 3) -> str:
    customer, limits = Customer(mail), UsageLimits(request_limit=10)
    answer = await agent.run(complaint, deps=customer, usage_limits=limits)
    await ctx.run(write_mail, mail, answer.output)
    await ctx.sleep(days * 86_400, name="follow up")
    question = await agent.run(
        "Some days have passed. Ask in one sentence whether all is well now.",
        deps=customer,
        usage_limits=limits,
        message_history=answer.all_messages(),
    )
    await ctx.run(write_mail, mail, question.output)
    return f"{answer.output} {question.output}"


def write_mail(to: str, text: str) -> None:
    """A real application sends a mail here."""
    print(f"to {to}: {text}")
