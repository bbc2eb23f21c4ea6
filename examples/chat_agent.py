"""An agent that talks with its user for days: it waits for the user and for its tools, and survives every crash.

As a worker:   durasleep worker examples.chat_agent:app
As a client:   durasleep ask chat-ada question "What is 6 times 7?" --timeout 30s --start chat     prints: That is 42.
               durasleep ask chat-ada question "And 2 plus 4?" --timeout 30s                       prints: That is 6.

Each call of the model and of a tool is a step: it is made once, and its result is kept. A user who says nothing for a
week ends the talk.
"""

import asyncio
import re

from durasleep import Context, Durasleep, Retry

app = Durasleep()


@app.workflow
async def chat(ctx: Context) -> int:
    history: list[str] = []
    async for message in ctx.messages("question", str, timeout="7d"):
        history.append(f"user: {message.value}")
        ctx.publish(status="thinking", questions=len(history) // 2 + 1)
        thought = await ctx.run(think, history, retry=Retry(attempts=5))
        while thought.startswith("tool: "):
            calls = thought.removeprefix("tool: ").split(", ")
            results = await asyncio.gather(*(ctx.rpc(calculate, call) for call in calls))
            history += [f"tool: {result}" for result in results]
            thought = await ctx.run(think, history, retry=Retry(attempts=5))
        history.append(f"agent: {thought}")
        ctx.publish(status="waiting", questions=len(history) // 2)
        await message.reply(thought)
    return len([line for line in history if line.startswith("user: ")])


def think(history: list[str]) -> str:
    """A real agent calls a language model here."""
    last = history[-1]
    if last.startswith("tool: "):
        return f"That is {last.removeprefix('tool: ')}."
    calls = re.findall(r"\d+ (?:times|plus) \d+", last)
    return f"tool: {', '.join(calls)}" if calls else "I can only count."


@app.task
def calculate(call: str) -> int:
    left, what, right = call.split()
    return int(left) * int(right) if what == "times" else int(left) + int(right)
