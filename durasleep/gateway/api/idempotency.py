"""Idempotency-Key: a request that is repeated under its key is carried out once, and gets the answer of the first time.

It follows the draft of the IETF, httpapi-idempotency-key-header: another request under the same key is refused with
422, and one that comes while the first is still carried out with 409. Only answers that say that something was done are
noted. A request that was refused or has failed may be repeated as if it were new.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, cast

from durasleep.errors import DurasleepError
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.http import Request
from durasleep.protocol import repeats
from durasleep.transport.store import Store

HEADER = "idempotency-key"
KEPT_MS = 24 * 3_600_000
_CLAIM_MS = 120_000  # longer than a request is carried out; after it a repeated request does what a dead gateway left
ANSWER_BYTES_MAX = 64 << 10
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string of RFC 8941
_KEY = re.compile(r"[ -~]{1,255}")


class Noted(NamedTuple):
    """What was done under a key before."""

    status: int
    document: Any
    """The answer; None if it was not noted."""
    more: Mapping[str, str]
    """What a route has noted that makes its answer anew."""


def read_key(headers: Mapping[str, str]) -> str | None:
    """The key of a request, with or without quotes; None without any."""
    given = headers.get(HEADER)
    if given is None:
        return None
    match = _QUOTED.fullmatch(given.strip())
    key = re.sub(r"\\(.)", r"\1", match[1]) if match else given.strip()
    if not _KEY.fullmatch(key):
        raise Problem("unreadable", "Idempotency-Key: use 1 to 255 printable ASCII characters")
    return key


class Repeats:
    """Notes what was done under the key of one request."""

    def __init__(self, store: Store, key: str, request: Request) -> None:
        self._store = store
        self._key = key
        self._keys = store.keys(key)
        # The query says only how long to wait, and how values are written: that may differ when it is repeated.
        asked = b"\0".join((request.method.encode(), request.path.encode(), request.body))
        self.is_noted = False
        """Whether it was said what was done."""
        self._fingerprint = hashlib.sha256(asked).hexdigest()[:32]

    async def claim(self) -> Noted | None:
        """What was done under this key before; None if nothing was, and then it is claimed for this request. Problem
        for a key of another request, and if the first one is still carried out.
        """
        mark = f"{self._fingerprint} {secrets.token_hex(8)}".encode()
        found = await self._store.run(repeats.claim(self._keys, self._key, mark, ttl_ms=_CLAIM_MS))
        if found.is_ours:
            return None
        fingerprint, _, rest = found.noted.partition(b" ")
        if fingerprint.decode(errors="replace") != self._fingerprint:
            raise Problem("key-reused", "another request was made under this Idempotency-Key: use a new one for each")
        if not rest.startswith(b"{"):
            raise Problem(
                "in-progress",
                "the first request under this Idempotency-Key is still carried out: ask again soon",
                headers=[("Retry-After", "1")],
            )
        noted = cast("dict[str, Any]", json.loads(rest))
        return Noted(noted["status"], noted["document"], noted["more"])

    async def note(self, status: int, document: object, **more: str) -> None:
        """Note what was done. Without a ``document``, or if it is too long, a repeated request cannot be given it."""
        self.is_noted = True
        text = _render(status, document, more)
        if len(text) > ANSWER_BYTES_MAX:
            text = _render(status, None, more)
        noted = b"%b %b" % (self._fingerprint.encode(), text)
        await self._store.call(repeats.note(self._keys, self._key, noted, ttl_ms=KEPT_MS))

    async def release(self) -> None:
        """Nothing was done: the key is free again. If Redis does not answer, it is free in two minutes."""
        with suppress(DurasleepError):
            await self._store.call(repeats.forget(self._keys, self._key))


def _render(status: int, document: object, more: Mapping[str, str]) -> bytes:
    return json.dumps({"status": status, "document": document, "more": more}, separators=(",", ":")).encode()
