"""The dashboard beside a Django site, under a path of its own: what stands in its asgi.py.

    uvicorn examples.dashboard_django:application

With DURASLEEP_UI_TOKEN it asks for that token. Without it, only a browser on this machine is answered.
"""

from __future__ import annotations

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.routing import Mount

from durasleep import Durasleep
from durasleep.dashboard import create_app

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"], SECRET_KEY=os.urandom(32).hex())


def home(_: HttpRequest) -> HttpResponse:
    return HttpResponse(b'<a href="/durasleep/">what sleeps</a>')


urlpatterns = [path("", home)]

app = Durasleep()

application = Starlette(
    routes=[
        Mount("/durasleep", create_app(app, token=os.environ.get("DURASLEEP_UI_TOKEN"))),
        Mount("/", get_asgi_application()),
    ]
)
