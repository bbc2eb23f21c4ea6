"""Who may use the gateway: whoever has its token, or, without one, programs of this machine.

A page in a browser of this machine could ask, too: by a form, or by a name of its own that leads to this machine. So
without a token no request of a page is answered, and none for another name than that of this machine.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable

from durasleep.errors import UsageError
from durasleep.gateway.http import Request

TOKEN_MIN = 16  # characters; fewer could be guessed
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")


class Access:
    """Decides on each request."""

    def __init__(self, token: str | None = None, allowed_hosts: Iterable[str] = ()) -> None:
        """``allowed_hosts`` are further names by which it is open to everybody who reaches it, without a token.
        UsageError for a token that can be guessed, or a name that is none.
        """
        token = token.strip() if token else None  # of a file, it may have the end of a line
        if token is not None and (len(token) < TOKEN_MIN or not token.isascii() or not token.isprintable()):
            raise UsageError(f"the token can be guessed, or cannot be sent: use {TOKEN_MIN} or more letters and digits")
        self._token = None if token is None else token.encode()
        self._hosts = {_checked_host(name) for name in allowed_hosts}

    def why_not_here(self, request: Request) -> str:
        """Why a request is not answered, whoever makes it; empty if it may be."""
        if self._token is not None:
            return ""
        headers = request.headers
        if "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "requests of pages in a browser are not answered without a token"
        host = headers.get("host")
        if host is None or (name := host_of(host)) in self._hosts or is_loopback(name):
            return ""
        return f"{host} is not the name of this machine: start the gateway with --allow-host, or with a token"

    def has_token(self, request: Request) -> bool:
        """Whether a request has the token in its header, or needs none."""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given.strip())

    def is_token(self, given: str | None) -> bool:
        """Whether it is the token, or none is needed; it takes equally long for every wrong one."""
        if self._token is None:
            return True
        return given is not None and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token)


def host_of(text: str) -> str:
    """The name in a Host, in small letters and without its port; empty if there is none."""
    match = _HOST.fullmatch(text)
    return (match[1] or match[2]).lower().rstrip(".") if match else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine has this name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_host(name: str) -> str:
    host = host_of(name.strip())
    if not host:
        raise UsageError(f"--allow-host {name!r}: write a name as clients use it, such as gateway.example.org")
    return host
