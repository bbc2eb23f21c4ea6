"""A small shop. ``DURASLEEP`` has the arguments of ``Durasleep(...)``."""

import os
from datetime import timedelta
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]

INSTALLED_APPS = ["durasleep.contrib.django", "orders"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "shop.errors.answer_errors"]
ROOT_URLCONF = "shop.urls"
ASGI_APPLICATION = "shop.asgi.application"
WSGI_APPLICATION = "shop.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "shop.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},  # workers and views write at the same time
        "TEST": {"NAME": BASE_DIR / "test.sqlite3"},  # a file: the tasks of a test run in other threads
    }
}

DURASLEEP = {"namespace": "shop"}
if url := os.environ.get("SHOP_REDIS_URL"):
    DURASLEEP["url"] = url

REVIEW_AFTER = timedelta(seconds=float(os.environ.get("SHOP_REVIEW_AFTER_S", "604800")))
