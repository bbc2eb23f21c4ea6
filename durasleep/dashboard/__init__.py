"""The dashboard: pages that show a namespace, and follow what happens there. It needs the extra ``ui``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from durasleep.errors import UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from durasleep.client import Client

__all__ = ["create_app", "path_of"]

_EXTRA = ("starlette", "jinja2", "sse_starlette", "uvicorn", "itsdangerous")


def create_app(
    app: Client,
    *,
    writable: bool = False,
    token: str | None = None,
    user_header: str | None = None,
    trusted_proxies: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    user: str | None = None,
    secret: str | None = None,
    show_values: bool = False,
) -> Starlette:
    """The dashboard of an application, as an ASGI application to serve or to mount::

        web.mount("/durasleep", durasleep.dashboard.create_app(app))

    ``app`` is the Durasleep object or client whose namespace is shown; who made it closes it. Arguments, results and
    what executions publish are only shown with ``show_values``. By default nothing can be changed; with ``writable``
    people may also wake, cancel, retry and the like, and every such act is kept, see ``audit``.

    Who may look: with a ``token`` of 16 or more characters, whoever has entered it, or sends it as ``Authorization:
    Bearer``. With a ``user_header``, whoever a proxy names in this header of its requests; ``trusted_proxies`` are the
    addresses or networks of these proxies. With neither, whoever uses this machine, by a name of this machine such as
    ``localhost``; ``allowed_hosts`` are further names, by which everybody may look, so protect the path where you mount
    it. ``user`` is then who has done what is done, by default the user of this machine. ``secret`` signs the cookies;
    several processes need the same, unless there is a token. Raises UsageError if the extra ``ui`` is not installed, or
    if the options do not fit together.
    """
    check_installed()
    from durasleep.dashboard.options import Options
    from durasleep.dashboard.site import Site

    options = Options(
        writable=writable,
        token=token,
        user_header=user_header,
        trusted_proxies=tuple(trusted_proxies),
        allowed_hosts=tuple(allowed_hosts),
        user=user,
        secret=secret,
        show_values=show_values,
    )
    return Site(app, options).asgi()


def path_of(id: str) -> str:
    """The path of an execution's page, below that of the dashboard: an id may have characters that a path cannot."""
    from durasleep.dashboard.paths import quote_id

    return f"/executions/{quote_id(id)}"


def check_installed() -> None:
    """UsageError, saying what to install, if a library of the dashboard is missing."""
    from importlib.util import find_spec

    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(f"the dashboard needs {missing[0]}: pip install 'durasleep[ui]'")
