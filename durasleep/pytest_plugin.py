"""Fixtures for pytest, which finds them by itself once durasleep is installed.

``async with durasleep_env(app) as env`` is ``durasleep.testing.env`` on the server that ``durasleep_redis`` names, and
``with durasleep_sync_env(app) as env`` is ``durasleep.testing.sync_env`` on it.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--durasleep-redis",
        metavar="URL",
        default=os.environ.get("DURASLEEP_TEST_REDIS_URL") or None,
        help="the server durasleep_env runs on; else DURASLEEP_TEST_REDIS_URL, else fakeredis in this process",
    )


@pytest.fixture
def durasleep_redis(request: pytest.FixtureRequest) -> Any:
    """The URL or client on which ``durasleep_env`` runs, None for fakeredis; override it to choose another."""
    return request.config.getoption("--durasleep-redis")


@pytest.fixture
def durasleep_env(durasleep_redis: Any) -> Any:
    """Takes the arguments of ``durasleep.testing.env``, and runs on ``durasleep_redis``."""
    from durasleep import testing

    return functools.partial(testing.env, redis=durasleep_redis)


@pytest.fixture
def durasleep_sync_env(durasleep_redis: Any) -> Any:
    """Takes the arguments of ``durasleep.testing.sync_env``, and runs on ``durasleep_redis``."""
    from durasleep import testing

    return functools.partial(testing.sync_env, redis=durasleep_redis)
