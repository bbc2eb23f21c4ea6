"""Passwords in addresses: no text for people shows them."""

from __future__ import annotations

import pytest
import redis

from durasleep import Durasleep, UsageError
from durasleep.address import Address
from durasleep.sync import Client
from durasleep.transport.connector import Connector

SCHEMES = ("redis", "rediss", "redis+sentinel", "redis+cluster")
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
    "url",
    [
        "SCHEME://:PaSs?x=y@host",
        "SCHEME://:PaSs?x=y&z=a@host",
        "SCHEME://me:12?PaSs=y@host",
        "SCHEME://:PaSs",
        "SCHEME://me:PaSs",
        "SCHEME://me:PaSs/0",
        "SCHEME://me:PaSs?x=y",
        "SCHEME://:99999",
        "SCHEME://[PaSs",
        "SCHEME://[PaSs]",
        "SCHEME://[PaSs]@host",
        "SCHEME://me:PaSs\u2100@host",
        "SCHEME://me:one@host:PaSs",
        "me:PaSs",
    ],
)
@pytest.mark.parametrize("scheme", [*SCHEMES, "valkey", "unix"])
def test_a_url_that_lacks_its_host_or_cannot_be_read_is_refused_without_a_part_of_its_password(
    scheme: str, url: str
) -> None:
    url = url.replace("SCHEME", scheme)
    with pytest.raises(UsageError) as found:
        Connector.of(url)
    for shown in (str(found.value), str(Address(url, "--url"))):
        assert "PaSs" not in shown
        assert "99999" not in shown


@pytest.mark.parametrize("rest", ["?PaSs", "?x=PaSs", "#PaSs", "/PaSs", "/0#PaSs", "?db=0&PaSs", "?password=PaSs"])
def test_what_may_be_the_rest_of_a_password_is_not_shown(rest: str) -> None:
    shown = str(Address(f"redis://me:12{rest}", "--url"))
    assert shown.startswith("redis://me:12")
    assert "PaSs" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://",
        "redis://[::1]:6379/1",
        "redis://h/0?protocol=3&client_name=me",
        "unix:///tmp/redis.sock?db=2",
        "redis+sentinel://a:1,b,[::1]:3/orders/0?sentinel_username=me",
        "localhost:6379",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert str(Address(url, "--url")) == f"{url} (--url)"


@pytest.mark.parametrize(
    "source",
    [
        "redis://me:sec%2Fret@host/0",
        "unix://me:secret@/tmp/redis.sock",
        "redis+sentinel://me:secret@host/orders",
        "redis://host/0?password=secret&client_name=a@b",
        redis.Redis(host="host", username="me", password="secret"),
    ],
    ids=["a url", "a socket", "sentinels", "a query", "a client"],
)
def test_a_connector_can_be_shown(source: str | redis.Redis) -> None:
    connector = Connector.of(source)
    assert "ret" not in repr(connector).replace("retry", "")
    assert connector.arguments["password"] in ("sec/ret", "secret")
