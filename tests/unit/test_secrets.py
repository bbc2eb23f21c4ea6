"""Passwords in addresses: never in what people are shown."""

from __future__ import annotations

import pytest
import redis

from durasleep import Durasleep, UsageError
from durasleep.store.connection import Connector
from durasleep.sync import Client

SCHEMES = ("redis", "rediss", "redis+sentinel")
CUT = ("one/two", "one#two", "one?two", "12/two", "one/12#two", "#two", "one@two/three")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("password", CUT)
@pytest.mark.parametrize("host", ["host", "host:6379", "host:x", ""])
def test_a_url_whose_password_is_cut_in_two_is_refused_without_a_part_of_it(
    scheme: str, password: str, host: str
) -> None:
    for make in (Connector.of, Durasleep, Client):
        with pytest.raises(UsageError) as found:
            make(f"{scheme}://me:{password}@{host}/0")
        assert not [part for part in ("one", "two", "three", "12") if part in str(found.value)]
        assert "%2F" in str(found.value)


@pytest.mark.parametrize("url", ["redis://me:secret@host:x", "ftp://me:secret@host", "redis://secret@host:x/0"])
def test_a_url_that_is_wrong_elsewhere_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(UsageError, match=r"\*\*\*@host") as found:
        Connector.of(url)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    "source",
    [
        "redis://me:sec%2Fret@host/0",
        "unix://me:secret@/tmp/redis.sock",
        "redis+sentinel://me:secret@host/orders",
        "redis://host/0?password=secret&client_name=a@b",
        redis.Redis(host="host", username="me", password="secret"),
    ],
    ids=str,
)
def test_a_connector_can_be_shown(source: str | redis.Redis) -> None:
    connector = Connector.of(source)
    assert "ret" not in repr(connector).replace("retry", "")
    assert connector.arguments["password"] in ("sec/ret", "secret")
