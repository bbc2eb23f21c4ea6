"""The examples with agents, as a user runs them: their models are scripts."""

from __future__ import annotations

import durasleep.testing
from durasleep.contrib.pydantic_ai import APPROVAL, Approval
from examples.agents import chat, support


async def test_the_support_agent_asks_a_person_and_comes_back_after_three_days() -> None:
    mails: list[str] = []

    def write_mail(_to: str, text: str) -> None:
        mails.append(text)

    async with durasleep.testing.env(support.app, debug=False, always_suspend=True) as env:
        env.mock(support.write_mail, write_mail)
        case = await env.start(support.support, "Order 1042 came broken.", id="case-7")
        await env.run_until_idle()
        assert (await env.app.view("case-7")).status == "waits for approval of refund"
        await env.send("case-7", APPROVAL, Approval(approved=True))
        await env.run_until_idle()
        assert mails == ["We are sorry. We have refunded 42.00 EUR."]
        await env.skip(days=3)
        assert mails[1:] == ["Has your new teapot arrived in one piece?"]
        assert await case == " ".join(mails)


async def test_the_chat_goes_on_in_new_runs_and_is_seen_while_it_speaks() -> None:
    async with durasleep.testing.env(chat.app, debug=False) as env:
        handle = await env.start(chat.chat, id="chat-ada")
        assert await env.ask("chat-ada", "question", "What is 6 times 7?", timeout="1h") == "That is 42."
        assert "That is 42. " in [step.values.get("text") for step in (await env.app.view("chat-ada")).steps.values()]
        for count in range(6):
            question = f"And {count} plus 2, and 2 times {count}?"
            assert (
                await env.ask("chat-ada", "question", question, timeout="1h") == f"That is {count + 2} and {count * 2}."
            )
        await env.skip(days=8)
        assert await handle == 7
