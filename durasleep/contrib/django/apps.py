"""What Django loads for ``durasleep.contrib.django`` in ``INSTALLED_APPS``."""

# Django has no types of its own.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

from durasleep.contrib.django import application


class DurasleepConfig(AppConfig):
    """Imports the ``workflows.py`` of each installed application. It connects to nothing."""

    name = "durasleep.contrib.django"
    label = "durasleep"
    verbose_name = "durasleep"

    def ready(self) -> None:
        application.configured()
        autodiscover_modules("workflows")
