"""Makes the application of a Django project, of its setting ``DURASLEEP``."""

# Django has no types of its own.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections

from durasleep.app import Durasleep
from durasleep.errors import UsageError

_URL = "url"


def configured() -> dict[str, Any]:
    """The setting; ImproperlyConfigured if it is no dict, or has an entry that nobody reads."""
    found: object = getattr(settings, "DURASLEEP", None) or {}
    if not isinstance(found, Mapping):
        raise ImproperlyConfigured(f"DURASLEEP is a dict of the arguments of Durasleep, not {found!r}")
    options = cast("Mapping[str, Any]", found)
    known = [
        _URL,
        *(name for name, one in inspect.signature(Durasleep).parameters.items() if one.kind is one.KEYWORD_ONLY),
    ]
    if unknown := sorted(set(options) - set(known)):
        raise ImproperlyConfigured(f"DURASLEEP has {', '.join(map(repr, unknown))}; it may have {', '.join(known)}")
    return dict(options)


def make() -> Durasleep:
    """The application. Without a ``url`` it uses the Redis that ``Durasleep()`` would use."""
    options = configured()
    try:
        app = Durasleep(options.pop(_URL, None), **options)
    except UsageError as error:
        raise ImproperlyConfigured(f"DURASLEEP: {error}") from None
    app.middleware(_with_fresh_connections)
    app.middleware(_with_fresh_connections_in_their_thread)
    return app


def _with_fresh_connections() -> Generator[None]:
    """The connections of this thread are those of a sync task or step."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


async def _with_fresh_connections_in_their_thread() -> AsyncGenerator[None]:
    """An async task or step asks the database in the one thread of ``sync_to_async``."""
    close = sync_to_async(close_old_connections)
    await close()
    try:
        yield
    finally:
        await close()
