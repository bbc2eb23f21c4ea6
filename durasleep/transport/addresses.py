"""Lists of hosts in a URL."""

from __future__ import annotations

from durasleep.protocol.slots import Address


def read(hosts: str, port: int) -> tuple[Address, ...]:
    """``HOST[:PORT][,HOST[:PORT]...]``, with this port if none is given; ValueError if one is no address."""
    return tuple(_read(host, port) for host in hosts.split(","))


def _read(text: str, default: int) -> Address:
    """``host``, ``host:port`` or ``[v6]:port``."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default)
    if not host or not port.isdigit():
        raise ValueError(text)
    return host.removeprefix("[").removesuffix("]"), int(port)
