"""durasleep as a Flask extension::

    durasleep = Durasleep()

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config.from_prefixed_env()
        durasleep.init_app(app)
        return app

Views call ``durasleep.sync``. Tasks and steps run in an application context: ``current_app`` and extensions work in
them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, cast

from flask import Flask

from durasleep import app as core
from durasleep.errors import UsageError


class Durasleep(core.Durasleep):
    """``durasleep.Durasleep`` that an application of Flask, or its factory, configures. The arguments are the same."""

    def __init__(self, url_or_client: Any = None, **options: Any) -> None:
        super().__init__(url_or_client, **options)
        self._flask: Flask | None = None
        self.middleware(self._in_app_context)

    def init_app(self, app: Flask) -> None:
        """Take the Redis and the namespace from the configuration: ``DURASLEEP_URL`` and ``DURASLEEP_NAMESPACE``.

        Both may be missing: then they are those of ``Durasleep(...)``. It connects to nothing. Tasks and steps run in
        the context of the application that was given last. UsageError for a URL or a name that cannot be used.
        """
        config = cast("Mapping[str, Any]", app.config)
        url, namespace = (config.get(f"DURASLEEP_{name}") or None for name in ("URL", "NAMESPACE"))
        if source := url or (namespace and (self._source or self.address.url)):
            self.connect(source, namespace=namespace)
        self._flask = app
        app.extensions["durasleep"] = self

    def _in_app_context(self) -> Generator[None]:
        if self._flask is None:
            raise UsageError(
                "no Flask application was given to init_app: name a module for the worker that calls the factory"
            )
        with self._flask.app_context():
            yield
