"""What a browser keeps between requests, signed so that nobody else can make it; and who guesses too often."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_network
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer

from durasleep.dashboard.requests import Address, Refused

SESSION_S = 12 * 3600  # a working day; then people log in again
_NOTICE_S = 60  # how long a notice waits for the page that shows it
_NOTICE_BYTES_MAX = 3_000  # browsers keep cookies of 4,096 bytes, with their names and attributes
_GUESSES_MAX = 5  # wrong tokens from one address, at once
_GUESS_S = 12.0  # and one more after this time
_ADDRESSES_MAX = 10_000  # that are remembered; the oldest are forgotten
_ENDED_MAX = 10_000  # sessions that people have logged out of


@dataclass(slots=True)
class Session:
    """A browser in which somebody has logged in, or has opened the page of a write."""

    user: str
    """Who it is, for the audit."""
    id: str = field(default_factory=partial(secrets.token_urlsafe, 18))
    is_new: bool = True
    """Whether the browser has no cookie of it yet."""
    is_over: bool = False
    """Whether its cookie is to be deleted."""
    expires_at: float = field(default_factory=lambda: time.time() + SESSION_S)
    """Until when it lasts, in seconds since 1970."""


@dataclass(slots=True)
class Viewer:
    """Who looks at a page, and what they may do."""

    user: str
    """Who it is, for the audit."""
    can_write: bool = False
    """Whether they may change anything at all."""
    has_login: bool = False
    """Whether they have logged in, and may log out."""
    find_csrf: Callable[[], str] = str
    find_notice: Callable[[], str] = str
    notify: Callable[[str], None] = lambda _: None
    """Shows a text on the next page that this browser loads."""

    @property
    def csrf(self) -> str:
        """The token that a form sends back, so that only a page of this session can make it."""
        return self.find_csrf()

    @property
    def notice(self) -> str:
        """What the last write has to say, for this page alone; "" for nothing."""
        return self.find_notice()


class Sessions:
    """Signs and checks cookies and the tokens of forms. Nothing is kept of a session but that it was ended."""

    def __init__(self, key: str) -> None:
        def signed(what: str) -> URLSafeTimedSerializer:
            options: dict[str, Any] = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
            return URLSafeTimedSerializer(key, salt=f"durasleep {what}", signer_kwargs=options)

        self._sessions = signed("session")
        self._notices = signed("notice")
        self._forms = hashlib.sha256(f"durasleep form {key}".encode()).digest()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Event]] = {}

    def dump(self, session: Session) -> str:
        """A session as a cookie."""
        return str(self._sessions.dumps([session.id, session.user]))

    def load(self, cookie: str) -> Session | None:
        """The session of a cookie; None if it is not ours, too old, or ended."""
        try:
            (id, user), signed_at = self._sessions.loads(cookie, max_age=SESSION_S, return_timestamp=True)
        except (BadData, ValueError, TypeError):
            return None
        if id in self._ended:
            return None
        return Session(user, id, is_new=False, expires_at=signed_at.timestamp() + SESSION_S)

    def end(self, session: Session) -> None:
        """Let nobody use a session any more, wherever its cookie is."""
        session.is_over = True
        self._ended[session.id] = None
        for waiting in self._waiting.pop(session.id, ()):
            waiting.set()
        while len(self._ended) > _ENDED_MAX:
            self._ended.popitem(last=False)

    async def ended(self, session: Session) -> None:
        """Wait until a session may not be used any more."""
        if session.id in self._ended:
            return
        waiting = asyncio.Event()
        self._waiting.setdefault(session.id, []).append(waiting)
        try:
            async with asyncio.timeout(session.expires_at - time.time()):
                await waiting.wait()
        except TimeoutError:
            pass
        finally:
            if others := self._waiting.get(session.id):
                others.remove(waiting)
                if not others:
                    del self._waiting[session.id]

    def csrf_of(self, session: Session) -> str:
        """The token of the forms of a session."""
        return hmac.new(self._forms, f"{session.id} {session.user}".encode(), hashlib.sha256).hexdigest()

    def dump_notice(self, session: Session, text: str) -> str:
        """A notice for the next page of a session, as a cookie."""
        while len(cookie := str(self._notices.dumps([session.id, text]))) > _NOTICE_BYTES_MAX:
            text = f"{text[: len(text) * 3 // 4]}…"
        return cookie

    def load_notice(self, session: Session, cookie: str) -> str:
        """The notice of a cookie; "" if it is not for this session, or too old."""
        try:
            id, text = self._notices.loads(cookie, max_age=_NOTICE_S)
        except (BadData, ValueError, TypeError):
            return ""
        return str(text) if id == session.id else ""


class TokenCheck:
    """Compares tokens, and makes whoever sends wrong ones wait: a few at once, then one in twelve seconds."""

    def __init__(self, token: str) -> None:
        self._digest = _digest(token)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """How many guesses an address had left, and at which time."""

    def check(self, given: str, peer: Address | None) -> None:
        """Refused unless it is the token. While somebody has to wait, even the right one is not looked at."""
        address = _guesser(peer)
        left = self._left_of(address)
        if left < 1:
            wait_s = (1 - left) * _GUESS_S
            raise Refused(429, f"There were too many wrong tokens. Wait {max(wait_s, 1):.0f} s.", wait_s=wait_s)
        if not hmac.compare_digest(_digest(given), self._digest):
            self._left[address] = (left - 1, time.monotonic())
            self._left.move_to_end(address)
            while len(self._left) > _ADDRESSES_MAX:
                self._left.popitem(last=False)
            raise Refused(401, "This is not the token.")

    def _left_of(self, address: str) -> float:
        left, at = self._left.get(address, (float(_GUESSES_MAX), 0.0))
        return min(float(_GUESSES_MAX), left + (time.monotonic() - at) / _GUESS_S)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _guesser(peer: Address | None) -> str:
    """What counts as one guesser: an address, or the network of one of IPv6, whose addresses cost nothing."""
    if isinstance(peer, IPv6Address):
        return str(ip_network((peer, 64), strict=False))
    return str(peer)
