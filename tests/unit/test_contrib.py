"""What errors of durasleep are in HTTP."""

from __future__ import annotations

import pytest

from durasleep import errors
from durasleep.contrib.http import answer_to


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.NotFound, 404),
        (errors.OtherFunction, 409),
        (errors.Ended, 409),
        (errors.NotAllowed, 409),
        (errors.PayloadTooLarge, 413),
        (errors.InvalidId, 422),
        (errors.LimitFull, 429),
        (errors.MailboxFull, 429),
        (errors.WaitTimeout, 504),
    ],
)
def test_what_a_caller_can_mend_is_said_to_the_caller(
    kind: type[errors.DurasleepError], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer_to(kind("order-7 is not there")) == (status, "order-7 is not there")
    assert not caplog.records


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.StoreUnavailable, 503),
        (errors.StoreRefused, 503),
        (errors.UsageError, 500),  # of our own code: a caller cannot mend it
        (errors.Canceled, 500),
        (errors.Mismatch, 500),
    ],
)
def test_what_only_operators_should_know_is_logged(
    kind: type[errors.DurasleepError], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    answer = answer_to(kind("at 10.0.0.7"))
    assert answer.status == status
    assert "10.0.0.7" not in answer.detail
    assert "at 10.0.0.7" in caplog.text
