"""durasleep in a Django project: one application, made of the settings::

    INSTALLED_APPS = [..., "durasleep.contrib.django"]
    DURASLEEP = {"url": "redis://localhost:6379/0", "namespace": "shop"}

The ``workflows.py`` of each installed application is imported when Django starts. It registers its functions::

    from durasleep.contrib.django import app

    @app.task
    def send_mail(order_id: int) -> None: ...

``manage.py durasleep`` is the command line. Database connections that are too old are closed before and after each task
and step, as Django does it for a request.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durasleep.app import Durasleep

    app: Durasleep

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from durasleep.contrib.django import application

    made = globals()["app"] = application.make()
    return made
