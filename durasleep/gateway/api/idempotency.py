"""Idempotency-Key: a request that is repeated under its key is carried out once, and gets the answer of the first time.

It follows the draft of the IETF, httpapi-idempotency-key-header: another request under the same key is refused with
422, and one that comes while the first is still carried out with 409. Only answers that say that something was done are
noted. A request that was refused or has failed may be repeated as if it were new.

Sometimes nobody knows whether a request was carried out: the gateway has died, or Redis has not answered. What counts
once by itself is then simply done again. Anything else waits until the claim of the first request has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple

from durasleep.errors import (
    Ended,
    LimitFull,
    MailboxFull,
    NotAllowed,
    NotFound,
    StoreError,
    UsageError,
)
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.http import Request
from durasleep.protocol import repeats
from durasleep.transport.store import Store

HEADER = "idempotency-key"
KEPT_MS = 24 * 3_600_000
_CLAIM_MS = 120_000  # longer than a request is carried out; after it a repeated request does what a dead gateway left
ANSWER_BYTES_MAX = 64 << 10
_NOT_DONE = (Problem, UsageError, NotFound, NotAllowed, Ended, MailboxFull, LimitFull)
"""These say that nothing was done."""
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string of RFC 8941
_KEY = re.compile(r"[ -~]{1,255}")


class Noted(NamedTuple):
    """What was done under a key before."""

    status: int
    document: Any = None
    """The answer; None if it was not noted."""
    more: Mapping[str, str] = {}
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

    def __init__(self, store: Store, key: str, request: Request, *, does_more: bool) -> None:
        """A request that ``does_more`` when it is done again holds its key while nobody knows whether it was done."""
        self._store = store
        self._key = key
        self._keys = store.keys(key)
        self._does_more = does_more
        # The query says only how long to wait, and how values are written: that may differ when it is repeated.
        asked = b"\0".join((request.method.encode(), request.path.encode(), request.body))
        self._fingerprint = hashlib.sha256(asked).hexdigest()[:32]
        self.unique = hashlib.sha256(f"{self._fingerprint} {key}".encode()).hexdigest()[:32]
        """A text that only this request has, under this key."""
        self._mark = f"{self._fingerprint} {secrets.token_hex(8)}".encode()

    async def once(self, act: Callable[[], Awaitable[Noted]]) -> Noted:
        """Act, and note what was done; or find what was done under this key before. Problem for a key of another
        request, and if nobody knows yet how the first one has ended.
        """
        try:
            noted = await self._claim()
            if noted is not None:
                return noted
            done = await act()
        except TimeoutError:  # the question was sent, and is not sent again
            await self._note(Noted(HTTPStatus.GATEWAY_TIMEOUT))
            raise
        except Exception as error:
            if not self._does_more or isinstance(error, _NOT_DONE):
                await self._free()
            raise
        await self._note(done)
        return done

    async def _claim(self) -> Noted | None:
        """What was done under this key before; None if nothing was: then it is claimed for this request."""
        found = await self._store.run(repeats.claim(self._keys, self._key, self._mark, ttl_ms=_CLAIM_MS))
        if found.is_ours:
            return None
        fingerprint, _, rest = found.noted.partition(b" ")
        if fingerprint.decode(errors="replace") != self._fingerprint:
            raise Problem("key-reused", "another request was made under this Idempotency-Key: use a new one for each")
        if rest.startswith(b"{"):
            return Noted(**json.loads(rest))
        if not self._does_more:
            self._mark = found.noted
            return None
        raise Problem(
            "in-progress",
            "the first request under this Idempotency-Key is still carried out, or nobody knows how it has ended: ask "
            "again, for up to two minutes",
            headers=[("Retry-After", "1")],
        )

    async def _note(self, done: Noted) -> None:
        """Note what was done. If that fails, the client still has its answer."""
        text = _render(done)
        if len(text) > ANSWER_BYTES_MAX:
            text = _render(done._replace(document=None))
        noted = b"%b %b" % (self._fingerprint.encode(), text)
        with suppress(StoreError):
            await self._store.call(repeats.note(self._keys, self._key, self._mark, noted, ttl_ms=KEPT_MS))

    async def _free(self) -> None:
        """The key is free again. If Redis does not answer, it is free in two minutes."""
        with suppress(StoreError):
            await self._store.call(repeats.free(self._keys, self._key, self._mark))


def _render(noted: Noted) -> bytes:
    return json.dumps(noted._asdict(), separators=(",", ":")).encode()
