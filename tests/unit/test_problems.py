"""Errors as answers of the gateway: which kind of problem each is, and what only operators should know."""

from __future__ import annotations

import json

import pytest

from durasleep import errors
from durasleep.gateway.api import problems
from durasleep.gateway.api.problems import problem_of

TOLD: dict[type[Exception], tuple[int, str]] = {
    errors.OtherFunction: (409, "other-function"),
    errors.PayloadTooLarge: (413, "too-large"),
    errors.InvalidId: (422, "invalid"),
    errors.UsageError: (422, "invalid"),
    errors.NotFound: (404, "not-found"),
    errors.NotAllowed: (409, "not-allowed"),
    errors.Ended: (409, "ended"),
    errors.MailboxFull: (429, "mailbox-full"),
    errors.LimitFull: (429, "limit-full"),
    errors.NotReplicated: (503, "unconfirmed"),
    errors.UnsupportedServer: (501, "unsupported"),
    errors.TimedOut: (504, "no-answer"),
    errors.WaitTimeout: (504, "no-answer"),
}
LOGGED: dict[type[Exception], tuple[int, str]] = {
    errors.StoreUnavailable: (503, "unavailable"),
    errors.StoreFull: (503, "unavailable"),
    errors.StoreRefused: (503, "unavailable"),
    errors.NamespaceMissing: (503, "unavailable"),
    errors.CorruptData: (500, "internal"),
    errors.Mismatch: (500, "internal"),
    KeyError: (500, "internal"),
}


@pytest.mark.parametrize("kind", [*TOLD, *LOGGED, errors.Fenced])
def test_each_error_is_a_kind_of_problem(
    kind: type[Exception], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "_said_s", {})
    status, word = {**TOLD, **LOGGED}.get(kind, (409, "fenced"))
    answer, *_ = [problem_of(kind("at 10.0.0.7")).response("/v1/executions/x") for _ in range(3)]
    said = json.loads(answer.body)
    assert (answer.status, said["status"], said["type"].partition("#")[2]) == (status, status, word)
    assert ("at 10.0.0.7" in said["detail"]) == (kind in TOLD)
    assert (dict(answer.headers).get("Retry-After") == "1") == (status in (429, 503))
    lines = sum("10.0.0.7" in caplog.handler.format(record) for record in caplog.records)
    assert lines == {"unavailable": 1, "internal": 3}.get(word, 0)  # an outage has many requests
