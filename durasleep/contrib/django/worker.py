"""The application for ``durasleep worker durasleep.contrib.django.worker``, with Django set up.

``manage.py durasleep worker`` does the same. It needs ``DJANGO_SETTINGS_MODULE``, as every program outside of
``manage.py``.
"""

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from durasleep.contrib.django import app as app  # noqa: PLC0414 - it needs Django, and is imported from here
