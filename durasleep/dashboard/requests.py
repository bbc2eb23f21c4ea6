"""What a request says: where it is from, by which name it came, and the form that it brings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import Request
from starlette.types import Scope

from durasleep.errors import UsageError

FORM_BYTES_MAX = 1 << 20  # a thousand ids
_FIELDS_MAX = 5_000
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::[0-9]{1,5})?")
_ROOT = "durasleep.root"
PATH_SAFE = "/!$&'()*+,;=:@-._~"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Refused(Exception):
    """A request is not allowed, or is none that can be answered; nothing was done."""

    def __init__(self, status: int, sentence: str, *, wait_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.wait_s = wait_s
        """After which time it may be tried again."""


def parse_networks(trusted: Iterable[str]) -> tuple[Network, ...]:
    """Networks by CIDR, such as ``10.0.0.0/8`` or ``::1``; UsageError for anything else."""
    found: list[Network] = []
    for one in trusted:
        try:
            network = ip_network(one.strip())
        except ValueError as error:
            raise UsageError(f"trusted proxy {one!r}: {error}; write a network such as 10.0.0.0/8 or ::1") from None
        if network.prefixlen == 0:
            raise UsageError(f"trusted proxy {one!r}: that is everybody, who could then give any name")
        found.append(network)
    return tuple(found)


def parse_address(text: str) -> Address | None:
    """An address without the name of an interface; one of IPv4 is that, also if it was written as one of IPv6."""
    try:
        found = ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or IPv6Address(int(found))
    return found


def parse_hosts(names: Iterable[str]) -> frozenset[str]:
    """Names of hosts, without ports; UsageError for what is none."""
    found = {name: host_of(name.strip()) for name in names}
    if wrong := next((name for name, host in found.items() if not host), None):
        raise UsageError(f"host {wrong!r}: write a name as browsers show it, such as ui.example.org")
    return frozenset(found.values())


def check_header(name: str) -> str:
    """Return the name of a header, or raise UsageError."""
    if not _TOKEN.fullmatch(name):
        raise UsageError(f"user header {name!r}: write the name of a header, such as X-Forwarded-User")
    return name


def host_of(text: str) -> str:
    """The name in a Host, in small letters and without its port; "" if there is none."""
    match = _HOST.fullmatch(text)
    return (match[1] or match[2]).lower().rstrip(".") if match else ""


def origin_of(text: str) -> str:
    """``host:port`` of a URL or Origin, with the port that its scheme has by default; "" for what is none."""
    try:
        parts = urlsplit(text)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ""
    return f"{parts.hostname.rstrip('.')}:{port}" if parts.hostname and port and "@" not in parts.netloc else ""


def keep_root(scope: Scope) -> None:
    """Note where the dashboard is mounted, before its own routes change the scope."""
    scope[_ROOT] = quote(str(scope.get("root_path", "")).rstrip("/"), safe=PATH_SAFE)


def root_of(scope: Scope) -> str:
    """The path under which the dashboard is mounted, as links have it; "" at the root."""
    return str(scope[_ROOT])


def path_of(scope: Scope) -> str:
    """The path of a request below where the dashboard is mounted, as it is routed."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :] or "/"
    return path


async def read_form(request: Request) -> list[tuple[str, str]]:
    """The fields of a form in their order; Refused for anything that our own forms do not send."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "Only forms are understood here.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES_MAX:
            raise Refused(413, f"This form has more than {FORM_BYTES_MAX >> 20} MiB.")
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise Refused(400, "This form cannot be read.") from None
