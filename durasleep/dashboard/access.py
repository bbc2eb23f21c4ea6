"""Who may look at the dashboard, and who may change something: one middleware in front of everything it serves.

It knows no view. What it lets pass has a ``Viewer``, see ``viewer_of``; writes ask ``check_write`` before they begin.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast
from urllib.parse import quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from durasleep.dashboard.requests import (
    PATH_SAFE,
    Address,
    Refused,
    check_header,
    host_of,
    keep_root,
    origin_of,
    parse_address,
    parse_hosts,
    parse_networks,
    path_of,
    read_form,
    root_of,
)
from durasleep.dashboard.sessions import SESSION_S, Session, Sessions, TokenCheck, Viewer
from durasleep.errors import InvalidId, UsageError
from durasleep.model import check_by

TOKEN_MIN = 16  # characters; fewer could be guessed
_VIEWER = "durasleep.viewer"
_READS = frozenset({"GET", "HEAD"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_LOCAL_PATH = re.compile(r"/(?!/)[!-\[\]-~]*")  # no other origin, no backslash, nothing but printable ASCII
_FORWARDED = ("x-forwarded-for", "x-real-ip", "forwarded")  # a proxy on this machine may speak for any other
_PORT = re.compile(r":([0-9]{1,5})$")
_TOO_OLD = "This form is of another session, or too old. Load its page again."

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # "no-referrer" would make the Origin of every form "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

# A cookie that is Strict does not come with a link from another site; with the same page loaded again, it does.
_AGAIN = '<!doctype html><html lang="en"><meta http-equiv="refresh" content="0"><title>One moment</title>'

LoginPage = Callable[[Request, str, str, int], Response]
"""Makes the page with the form, from a path to go to, what was wrong, and a status."""
ProblemPage = Callable[[Request, int, str], Response]
"""Makes a page that says what is wrong, from a status and a sentence."""


def viewer_of(request: Request) -> Viewer:
    """Who makes a request. Everybody who has come past the middleware is known."""
    return cast("Viewer", request.scope[_VIEWER])


def check_write(request: Request, form: Sequence[tuple[str, str]]) -> Viewer:
    """Who makes a write; Refused unless they may, and the form is of a page of their session."""
    viewer = viewer_of(request)
    if not viewer.can_write:
        raise Refused(403, "This dashboard only shows: nothing can be changed here.")
    _check_csrf(dict(form), viewer.csrf)
    return viewer


class AccessMiddleware:
    """Refuses whoever may not look, and gives every answer the headers that protect it.

    Without a ``token`` and a ``user_header``, whoever is on this machine may look, and only by a name of this machine,
    so that no page of another site can: ``allowed_hosts`` are further names, under which it is open to everybody who
    reaches it. With a ``token``, people log in by a form, and programs send it as ``Authorization: Bearer``. With a
    ``user_header``, the header of this name says who looks; it counts only in requests from ``trusted_proxies``. With
    both, each is enough.

    ``writable`` allows writes, by sessions only. ``user`` is who looks if nothing else says so. ``secret`` signs the
    cookies, by default the token; several processes need the same. Raises UsageError for what cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        login_page: LoginPage,
        problem_page: ProblemPage,
        writable: bool = False,
        token: str | None = None,
        user_header: str | None = None,
        trusted_proxies: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        user: str = "dashboard",
        secret: str | None = None,
    ) -> None:
        token = token if token is None else token.strip()  # of a file, it may have the end of a line
        if token is not None and len(token) < TOKEN_MIN:
            raise UsageError(f"the token has {len(token)} characters, and can be guessed: use {TOKEN_MIN} or more")
        if token is not None and not token.isprintable():  # also what was no UTF-8
            raise UsageError("the token has characters that nobody can type")
        self.proxies = parse_networks(trusted_proxies)
        if (user_header is None) != (not self.proxies):
            raise UsageError("a user header counts only from trusted proxies: give both, or none of them")
        self.login_page = login_page
        self.problem_page = problem_page
        self.writable = writable
        self.token = TokenCheck(token) if token else None
        self.user_header = None if user_header is None else check_header(user_header)
        self.hosts = parse_hosts(allowed_hosts)
        self.user = check_by(user)
        self.sessions = Sessions(secret or token or secrets.token_urlsafe(32))
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it pass."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(self, scope, receive, send)
        answer = await visit.answer()
        await (answer or self._app)(scope, visit.receive, visit.send)
        await visit.end()


class _Visit:
    """One request, and what its answer has to carry."""

    def __init__(self, access: AccessMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        keep_root(scope)
        self._access = access
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = Headers(scope=scope)
        self._request = Request(scope, receive)
        self._path = path_of(scope)
        client = scope.get("client")
        self._peer = parse_address(client[0]) if client and client[0] else None
        self._is_local = not client or (self._peer is not None and self._peer.is_loopback)
        self._is_proxied = _is_in(self._peer, access)
        if self._is_proxied and self._headers.get("x-forwarded-proto", "").rpartition(",")[2].strip() == "https":
            scope["scheme"] = "https"
        port = _PORT.search(self._headers.get("host", ""))
        self._cookie = f"durasleep_ui_{port[1]}" if port else "durasleep_ui"  # all ports share the cookies
        self._session: Session | None = None
        self._sent_notice: str | None = None
        """The cookie of a notice; "" deletes it."""
        self._is_begun = False
        self._is_cut = False
        """Whether the session has ended meanwhile."""

    async def answer(self) -> Response | None:
        """What to answer instead of the application; None if the request may pass."""
        try:
            return await self._enter()
        except Refused as refused:
            return self._problem(refused)

    def _problem(self, refused: Refused) -> Response:
        """A page for people, a line for programs."""
        if self._is_for_people:
            self._pass(Viewer(""))
            answer = self._access.problem_page(self._request, refused.status, str(refused))
        else:
            answer = PlainTextResponse(f"{refused}\n", refused.status)
        if refused.status == 401:
            answer.headers["www-authenticate"] = "Bearer"
        return _later(answer, refused)

    @property
    def _is_for_people(self) -> bool:
        return "text/html" in self._headers.get("accept", "")

    async def _enter(self) -> Response | None:
        access = self._access
        self._check_host()
        is_read = self._request.method in _READS
        if self._path.startswith("/static/") and is_read:
            self._pass(Viewer(""))
            return None
        if not is_read:
            self._check_origin()
        if self._session is None and (cookie := self._request.cookies.get(self._cookie)):
            self._session = access.sessions.load(cookie)
        if access.token is not None and self._path in ("/login", "/logout"):
            self._pass(Viewer(""))
            return await (self._log_in() if self._path == "/login" else self._log_out())
        viewer = self._proxied_viewer() or self._token_viewer() or self._open_viewer()
        if viewer is None:
            return self._not_logged_in()
        if not is_read and not viewer.can_write:
            raise Refused(403, "This dashboard only shows: nothing can be changed here.")
        self._pass(viewer)
        return None

    # -- may it be

    def _check_host(self) -> None:
        """Without login, a page of another site could have its name point here; it cannot change the Host."""
        access = self._access
        hosts = self._headers.getlist("host")
        name = host_of(hosts[0]) if len(hosts) == 1 else ""
        if not name:
            raise Refused(400, "This request has no Host.")
        if name in access.hosts:
            return
        is_open = access.token is None and access.user_header is None
        if (is_open and name not in _LOOPBACK_NAMES) or (access.hosts and name not in _LOOPBACK_NAMES):
            raise Refused(403, "This dashboard is not open by this name: allow the host, or use localhost.")
        if is_open and (not self._is_local or any(name in self._headers for name in _FORWARDED)):
            raise Refused(403, "This dashboard is open to its own machine only: it has no token and no user header.")

    def _check_origin(self) -> None:
        """Whoever sends a form must be a page of ours; a browser says so."""
        site, origins = self._headers.get("sec-fetch-site"), self._headers.getlist("origin")
        if site not in (None, "same-origin") or len(origins) > 1 or (site is None and not origins):
            raise Refused(403, "This request does not come from a page of this dashboard.")
        for origin in origins:
            scheme = origin.partition(":")[0]
            own = origin_of(f"{scheme}://{self._headers['host']}")
            is_own = origin_of(origin) == own != "" and scheme in ("https", self._scope.get("scheme", "http"))
            # A proxy may have changed the Host; then the browser's word for it is needed, too.
            is_known = site is not None and host_of(origin.partition("//")[2]) in self._access.hosts
            if not is_own and not is_known:
                raise Refused(403, "This request does not come from a page of this dashboard.")

    # -- who is it

    def _proxied_viewer(self) -> Viewer | None:
        """Who the proxy says it is; Refused if nobody else may say so."""
        access = self._access
        if access.user_header is None:
            return None
        names = self._headers.getlist(access.user_header)
        problem = "This request does not come from a trusted proxy."
        if self._is_proxied:
            problem = "The proxy does not say who this is."
            with suppress(InvalidId):
                if len(names) == 1:
                    return self._viewer(check_by(_utf8(names[0])))
        if access.token is None:
            raise Refused(403, problem)
        return None

    def _token_viewer(self) -> Viewer | None:
        token = self._access.token
        if token is None:
            return None
        scheme, _, given = self._headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token.check(_utf8(given.strip()), self._guesser())
            return Viewer("token")  # it reads only: writes need the form of a session
        if self._session is None:
            return None
        viewer = self._viewer(self._session.user)
        viewer.has_login = True
        return viewer

    def _open_viewer(self) -> Viewer | None:
        access = self._access
        return None if access.token is not None else self._viewer(access.user)

    def _viewer(self, user: str) -> Viewer:
        """Somebody with a session, which is made if a form or notice needs one."""
        session = self._session if self._session is not None and self._session.user == user else None
        self._session = session

        def find() -> Session:
            if self._session is None:
                self._session = Session(user)
            return self._session

        sessions = self._access.sessions
        return Viewer(
            user,
            can_write=self._access.writable,
            find_csrf=lambda: sessions.csrf_of(find()),
            find_notice=self._take_notice,
            notify=lambda text: self._keep_notice(sessions.dump_notice(find(), text)),
        )

    def _guesser(self) -> Address | None:
        """Whose guesses are counted: behind a proxy, the last address that is none of ours."""
        named = self._headers.get("x-forwarded-for", "").split(",") if self._is_proxied else []
        for one in reversed(named):
            address = parse_address(one)
            if address is None:
                break
            if not _is_in(address, self._access):
                return address
        return self._peer

    # -- logging in and out

    def _not_logged_in(self) -> Response:
        if not self._is_for_people:
            raise Refused(401, "Log in, or send the token as Authorization: Bearer.")
        if self._request.method not in _READS:
            return self._redirect("/login")
        if self._headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return HTMLResponse(_AGAIN)
        query = self._request.url.query
        path = quote(self._path, safe=PATH_SAFE) + (f"?{query}" if query else "")
        return self._redirect(f"/login?{urlencode({'next': path})}" if path != "/" else "/login")

    async def _log_in(self) -> Response:
        access, request = self._access, self._request
        to = request.query_params.get("next", "/")
        if request.method in _READS:
            return access.login_page(request, to, "", 200)
        if request.method != "POST":
            raise Refused(405, "Log in by the form.")
        form = dict(await read_form(request))
        to, name = form.get("next", "/"), form.get("name", "").strip()
        try:
            assert access.token is not None
            access.token.check(form.get("token", "").strip(), self._guesser())
            self._session = Session(check_by(f"{name} (token)") if name else "token")
        except Refused as refused:
            return _later(access.login_page(request, to, str(refused), refused.status), refused)
        except InvalidId:
            return access.login_page(request, to, "This name cannot be used.", 400)
        return self._redirect(to)

    async def _log_out(self) -> Response:
        if self._request.method != "POST":
            raise Refused(405, "Log out by the button.")
        form = dict(await read_form(self._request))
        if self._session is not None:
            _check_csrf(form, self._access.sessions.csrf_of(self._session))
            self._access.sessions.end(self._session)
        return self._redirect("/login")

    def _redirect(self, path: str) -> Response:
        to = path if _LOCAL_PATH.fullmatch(path) else "/"
        return RedirectResponse(root_of(self._scope) + to, 303)

    # -- notices

    def _take_notice(self) -> str:
        cookie = self._request.cookies.get(f"{self._cookie}_notice")
        if not cookie or self._session is None:
            return ""
        if self._sent_notice is None:
            self._sent_notice = ""
        return self._access.sessions.load_notice(self._session, cookie)

    def _keep_notice(self, cookie: str) -> None:
        self._sent_notice = cookie

    # -- the answer

    def _pass(self, viewer: Viewer) -> None:
        self._scope[_VIEWER] = viewer

    async def receive(self) -> Message:
        """What comes from the browser; it is gone for the application when its session has ended."""
        session = self._session
        if session is None or self._request.method not in _READS:
            return await self._receive()
        heard = asyncio.ensure_future(self._receive())
        ended = asyncio.create_task(self._access.sessions.ended(session))
        try:
            await asyncio.wait((heard, ended), return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                return heard.result()
            self._is_cut = True
            return {"type": "http.disconnect"}
        finally:
            heard.cancel()
            ended.cancel()

    async def send(self, message: Message) -> None:
        """What goes to the browser, with the headers."""
        if message["type"] == "http.response.start":
            self._add_headers(message)
            self._is_begun = True
        elif self._is_cut:
            return
        await self._send(message)

    async def end(self) -> None:
        """Complete an answer that was cut off."""
        if self._is_cut and self._is_begun:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _add_headers(self, message: Message) -> None:
        headers = MutableHeaders(raw=message.setdefault("headers", []))
        headers.update(_HEADERS)
        is_file = self._path.startswith("/static/") and message["status"] in (200, 304)
        if not is_file:
            headers["cache-control"] = "no-store"
        session = self._session
        if session is not None and session.is_over:
            self._set_cookie(headers, self._cookie, "")
        elif session is not None and session.is_new:
            self._set_cookie(headers, self._cookie, self._access.sessions.dump(session))
        if self._sent_notice is not None:
            self._set_cookie(headers, f"{self._cookie}_notice", self._sent_notice)

    def _set_cookie(self, headers: MutableHeaders, name: str, value: str) -> None:
        is_secure = self._scope.get("scheme") == "https"
        age = f"Max-Age={SESSION_S if value else 0}"
        path = root_of(self._scope) or "/"
        parts = [
            f"{name}={value}",
            f"Path={path}",
            age,
            "HttpOnly",
            "SameSite=Strict",
            *(["Secure"] if is_secure else []),
        ]
        headers.append("set-cookie", "; ".join(parts))


def _check_csrf(form: dict[str, str], own: str) -> None:
    if not hmac.compare_digest(form.get("csrf", "").encode(), own.encode()):
        raise Refused(403, _TOO_OLD)


def _later(answer: Response, refused: Refused) -> Response:
    if refused.wait_s:
        answer.headers["retry-after"] = f"{max(refused.wait_s, 1):.0f}"
    return answer


def _is_in(peer: Address | None, access: AccessMiddleware) -> bool:
    return peer is not None and any(peer in one for one in access.proxies)


def _utf8(header: str) -> str:
    """A header as proxies write it: in UTF-8, or else in Latin 1."""
    raw = header.encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return header
