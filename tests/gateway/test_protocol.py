"""Envelopes and polls, as an SDK sees them."""

from __future__ import annotations

import pytest

from tests.gateway.gateways import FAR_MS, Poll, Served, fetch, rpc


async def test_a_promise_with_a_target_comes_to_a_poll_of_its_group(gateway: Served) -> None:
    poll = await Poll.open(gateway.port, "ts", "p1")
    status, data = await rpc(
        gateway.url, "promise.create", id="a", timeoutAt=FAR_MS, param={}, tags={"resonate:target": "poll://any@ts"}
    )
    assert (status, data["promise"]["state"]) == (200, "pending")
    assert await poll.message() == {"kind": "execute", "head": {}, "data": {"task": {"id": "a", "version": 0}}}


@pytest.mark.parametrize("path", ["/promises", "/promises/a", "/tasks/claim", "/schedules?x=1"])
async def test_the_dead_protocol_is_gone(gateway: Served, path: str) -> None:
    answered = await fetch(f"{gateway.url}{path}")
    assert (answered.status, "2026-04-01" in answered.json()["detail"]) == (410, True)


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (b"", {"kind": "", "corrId": ""}),
        (b"null", {"kind": "", "corrId": ""}),
        (b"{", {"kind": "", "corrId": ""}),
        (b"[" * 100_000, {"kind": "", "corrId": ""}),
        (b'{"kind":"promise.get","head":{"corrId":"\xff"},"data":{}}', {"kind": "", "corrId": ""}),
        (b'{"kind":"promise.get","head":{"corrId":"c"},"data":{"id":"a"}}', {"kind": "promise.get", "corrId": "c"}),
        (
            b'{"kind":"no.such","head":{"corrId":"c","version":"2026-04-01"},"data":{}}',
            {"kind": "no.such", "corrId": "c"},
        ),
        (b'{"kind":7,"head":{"corrId":7,"version":"2026-04-01"},"data":{}}', {"kind": "", "corrId": ""}),
        (
            b'{"kind":"promise.get","head":{"corrId":"c","version":"2026-04-01"}}',
            {"kind": "promise.get", "corrId": "c"},
        ),
    ],
)
async def test_what_is_no_envelope_is_refused_in_one(gateway: Served, body: bytes, head: dict[str, str]) -> None:
    answered = await fetch(f"{gateway.url}/", method="POST", data=body)
    answer = answered.json()
    assert (answered.status, answer["head"]["status"]) == (400, 400), answer
    assert {"kind": answer["kind"], "corrId": answer["head"]["corrId"]} == head
    assert isinstance(answer["data"], str)
