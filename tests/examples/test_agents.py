"""Agents of pydantic-ai in workflows: killed, replayed, canceled, refused, and waiting for people."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from pydantic_ai import ModelMessagesTypeAdapter
from pydantic_ai.exceptions import ModelHTTPError, UsageLimitExceeded, UserError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse

import durasleep.testing
from durasleep import Canceled, Durasleep
from durasleep.contrib.pydantic_ai import APPROVAL, Approval, unpack_messages
from durasleep.errors import NotSerializable, PayloadTooLarge, UsageError
from durasleep.testing import Env
from harness.servers import Server
from tests.examples import agent_functions as agents
from tests.service.workers import Effects, Workers

WORKERS = "tests.examples.agent_functions"

NewEnv = Callable[..., AbstractAsyncContextManager[Env]]


@pytest.fixture(autouse=True)
def fresh() -> None:
    agents.calls.clear()
    agents.failures.clear()


@pytest.fixture
def env() -> NewEnv:
    """A worker that evicts each workflow at each await, so that everything is replayed, unless the test says no."""

    @asynccontextmanager
    async def make(*, always_suspend: bool = True, debug: bool = False) -> AsyncGenerator[Env]:
        async with durasleep.testing.env(agents.app, always_suspend=always_suspend, debug=debug) as made:
            yield made

    return make


@pytest.fixture
def agent_app(real_server: Server, namespace: str) -> Durasleep:
    return Durasleep(real_server.url, namespace=namespace, settings=agents.QUICK)


# -- crashes


async def test_a_killed_worker_repeats_the_tool_it_was_in_and_asks_the_model_nothing_again(
    agent_app: Durasleep, workers: Workers, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(agents.EFFECTS_VARIABLE, effects.path)
    first = await workers.begin("first", module=WORKERS).ready()
    handle = await agent_app.rpc("killed", "research", effects.path, "quick slow")
    await effects.standing("slow")
    await first.kill()
    assert effects.lines()[:3] == ["model", "quick", "model"]
    await workers.begin("second", module=WORKERS).ready()
    await effects.standing("slow", 2)
    effects.open("slow")
    assert await handle == "quick=1; slow=through slow [3 requests]"
    assert (effects.count("model"), effects.count("quick"), effects.count("slow")) == (3, 1, 2)
    await agent_app.aclose()


# -- replays


async def test_a_replay_at_every_await_leaves_the_same_messages(env: NewEnv) -> None:
    left: list[list[ModelMessage]] = []
    for always_suspend in (False, True):
        agents.calls.clear()
        async with env(always_suspend=always_suspend, debug=not always_suspend) as made:
            left.append(unpack_messages(await made.run(agents.all_messages, "inline+picky picky", id="same")))
        assert agents.calls.count("model") == 3
        assert agents.calls.count("picky") == 2
    plain, replayed = map(without_chance, left)
    assert plain == replayed
    assert [type(message) for message in left[1]] == [ModelRequest, ModelResponse] * 3


def without_chance(messages: list[ModelMessage]) -> object:
    """The messages without the instants and ids, which are those of their execution."""
    text: str = ModelMessagesTypeAdapter.dump_json(messages).decode()
    return re.sub(r'"(timestamp|run_id|conversation_id|tool_call_id)":"[^"]*"', r'"\1":""', text)


async def test_usage_in_the_step_of_a_tool_counts_the_same_in_each_replay(env: NewEnv) -> None:
    async with env() as made:
        assert await made.run(agents.research, "", "delegate quick") == "delegate=nothing; quick=1 [4 requests]"
        with pytest.raises(UsageLimitExceeded, match="request_limit of 2"):
            await made.run(agents.research, "", "delegate quick", 2)
        assert agents.calls.count("model") == 4 + 2


async def test_what_is_said_is_published_and_a_streamed_run_replays(env: NewEnv) -> None:
    async with env() as made:
        assert await made.run(agents.stream, "look", id="streamed") == "look=seen "
        assert agents.calls.count("model") == 2
        steps = (await made.app.view("streamed")).steps
        assert [step.values for step in steps.values()][-1] == {"text": "look=seen "}
        assert {"tool": "look"} in [step.values for step in steps.values()]


async def test_an_event_that_a_tool_emits_is_there_in_each_replay(env: NewEnv) -> None:
    for always_suspend in (False, True):
        async with env(always_suspend=always_suspend, debug=True) as made:
            assert await made.run(agents.events, "emits") == [
                "FunctionToolCallEvent",
                "Halfway",
                "FunctionToolResultEvent",
            ]


async def test_an_output_has_its_type_and_a_dynamic_toolset_its_steps(env: NewEnv) -> None:
    async with env() as made:
        assert await made.run(agents.ask_typed, ".") == agents.Told(text="nothing")
        assert await made.run(agents.change, "chosen") == "chosen=chosen"
        assert agents.calls.count("chosen") == 1


async def test_a_long_chat_goes_on_in_new_runs(env: NewEnv) -> None:
    async with env() as made:
        handle = await made.start(agents.long_chat, id="chat")
        assert await made.ask("chat", "question", "inline", timeout="1h") == "inline=chat after 0 messages"
        assert await made.ask("chat", "question", ".", timeout="1h") == "nothing after 4 messages"
        await made.skip(days=8)
        assert await handle == 2


# -- people and time


@pytest.mark.parametrize("answer", [Approval(approved=True), Approval(approved=False, message="too much"), None])
async def test_a_call_waits_for_a_person(env: NewEnv, answer: Approval | None) -> None:
    async with env() as made:
        handle = await made.start(agents.research, "", "refund", id="case")
        await made.run_until_idle()
        view = await made.app.view("case")
        assert view.status == "waits for approval of refund"
        assert [call["tool"] for call in view.values["approvals"]] == ["refund"]
        if answer is None:
            await made.skip(days=3)
            assert await handle == "refund=Nobody has answered in time. [2 requests]"
        else:
            await made.send("case", APPROVAL, Approval(approved=True, tool_call_id="of another chat"))
            await made.send("case", APPROVAL, answer)
            assert await handle == f"refund={'paid' if answer.approved else 'too much'} [2 requests]"
        assert agents.calls.count("refund") == (answer is not None and answer.approved)
        assert (await made.app.view("case")).values["approvals"] == []


async def test_a_tool_sleeps_for_days_and_waits_for_a_message(env: NewEnv) -> None:
    async with env() as made:
        handle = await made.start(agents.research, "", "later", id="late")
        await made.send("late", "news", "all is well")
        await made.skip(days=2)
        assert (await made.app.describe("late")).status == "suspended"
        await made.skip(days=1)
        assert await handle == "later=all is well [2 requests]"


async def test_an_event_from_outside_is_a_promise(env: NewEnv) -> None:
    async with env() as made:
        handle = await made.start(agents.questions, "refund", id="asks")
        await made.run_until_idle()
        [(token, [call])] = agents.asked
        await made.app.promises.resolve(token, {"approvals": {call: True}})
        assert await handle == "refund=paid"
        assert len(agents.asked) == 1
        late = await made.start(agents.questions, "refund", id="asks-again")
        await made.skip(hours=1)
        assert "No decision on this tool call arrived: nobody has answered within 1:00:00" in await late


# -- errors


async def test_a_request_is_retried_while_its_error_may_pass(env: NewEnv) -> None:
    async with env() as made:
        agents.failures[:] = [ModelHTTPError(503, "m"), ModelHTTPError(429, "m", headers={"retry-after": "3600"})]
        handle = await made.start(agents.research, "", "quick", id="busy")
        await made.skip(minutes=59)
        assert (await made.app.describe("busy")).status == "suspended"
        await made.skip(minutes=2)
        assert await handle == "quick=1 [2 requests]"
        assert agents.calls.count("model") == 4
        agents.failures[:] = [ModelHTTPError(401, "m", {"error": "key"}, headers={"x": "y"})]
        with pytest.raises(ModelHTTPError, match="status_code: 401") as refused:
            await made.run(agents.research, "", "quick")
        assert (refused.value.status_code, refused.value.body) == (401, {"error": "key"})
        assert agents.calls.count("model") == 5


async def test_an_error_of_a_tool_is_retried_as_asked_and_ends_the_run(env: NewEnv) -> None:
    async with env() as made:
        with pytest.raises(LookupError, match="nothing there"):
            await made.run(agents.research, "", "broken")
        assert agents.calls.count("broken") == 2
        with pytest.raises(TimeoutError, match="tested: endless"):
            await made.run(agents.research, "", "endless")
        assert agents.calls.count("endless") == 1
        with pytest.raises(PayloadTooLarge, match="the result of tested: huge: 2000"):
            await made.run(agents.research, "", "huge")
        with pytest.raises(NotSerializable, match="a result of an agent's step cannot be sent"):
            await made.run(agents.research, "", "strange")
        with pytest.raises(
            UserError, match="'wrong': its metadata 'durasleep' has retries, and may have retry and timeout"
        ):
            await made.run(agents.research, "", "wrong")
        with pytest.raises(UserError, match="cannot be added at runtime with durasleep"):
            await made.run(agents.too_late, ".")


async def test_a_cancel_stops_the_tool_and_ends_the_run(env: NewEnv, effects: Effects) -> None:
    async with env(always_suspend=False) as made:
        handle = await made.start(agents.research, effects.path, "quick+slow", id="stopped")
        await effects.standing("slow")
        await made.app.cancel("stopped")
        with pytest.raises(Canceled):
            await handle
        assert agents.calls == ["model"]


async def test_outside_of_a_workflow_an_agent_is_a_plain_one() -> None:
    result = await agents.agent.run("picky", deps="")
    assert result.output == "picky=fine"
    assert (await agents.streaming.run("look")).output == "look=seen "
    with pytest.raises(UsageError, match="only in the code of a workflow"):
        await agents.agent.run("inline", deps="")
