"""Finds the Redis to use if the code names none: one rule for programs and for commands.

The order is: an explicit name, the environment, pyproject.toml, a `durasleep dev`, and the default. A file or a server
is looked for in this directory and in those above it.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from durasleep.errors import UsageError

T = TypeVar("T")

_DEFAULT_URL = "redis://localhost:6379/0"
_PYPROJECT = "pyproject.toml"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a Redis, and where it was found."""

    url: str
    why: str
    """Such as ``DURASLEEP_REDIS_URL``, or the path of a pyproject.toml."""

    def __str__(self) -> str:
        from durasleep.transport.connector import without_secret

        return f"{without_secret(self.url)} ({self.why})"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place that may name a Redis, in the order of the rule."""

    name: str
    find: Callable[[], Address | None]
    otherwise: str = ""
    """The message if it names none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value under ``[tool.durasleep]`` of a pyproject.toml."""

    value: str
    path: Path


def find(*named: Candidate) -> Address:
    """The Redis to use: the first of ``named`` that gives one, else by the rule; UsageError for a wrong file."""
    return next(found for one in (*named, *RULE) if (found := one.find()) is not None)


def _of_environment(variable: str) -> Candidate:
    def find() -> Address | None:
        url = os.environ.get(variable)
        return Address(url, variable) if url else None

    return Candidate(variable, find, "it is not set")


def _of_pyproject() -> Address | None:
    setting = configured("url")
    return Address(setting.value, f"[tool.durasleep] of {setting.path}") if setting else None


def _running() -> Address | None:
    from durasleep import devserver

    def find(directory: Path) -> Address | None:
        url = devserver.discover(directory / devserver.DIRECTORY)
        return Address(url, f"the `durasleep dev` of {directory}") if url else None

    return _nearest(find)


RULE = (
    _of_environment("DURASLEEP_REDIS_URL"),
    _of_environment("REDIS_URL"),
    Candidate(_PYPROJECT, _of_pyproject, "none in this directory or above has a url under [tool.durasleep]"),
    Candidate("durasleep dev", _running, "none runs in this directory or above"),
    Candidate("the default", lambda: Address(_DEFAULT_URL, "the default, because nothing else is set")),
)
"""All places that may name a Redis, in order."""


def configured(key: str) -> Setting | None:
    """``key`` under ``[tool.durasleep]`` of the nearest pyproject.toml that has it, from this directory upwards.

    UsageError if that file is wrong.
    """
    return _nearest(lambda directory: _read(directory / _PYPROJECT, key))


def project_directory() -> Path | None:
    """The nearest directory whose pyproject.toml has a ``[tool.durasleep]`` that is not empty."""
    setting = _nearest(lambda directory: _read(directory / _PYPROJECT, None))
    return setting.path.parent if setting else None


def _nearest(find: Callable[[Path], T | None]) -> T | None:
    return next((found for directory in _upwards() if (found := find(directory)) is not None), None)


def _upwards() -> Iterator[Path]:
    """This directory and those above it, up to the first that everybody may write to: its files cannot be trusted."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return
    yield here
    for directory in here.parents:
        if sys.platform != "win32" and directory.stat().st_mode & stat.S_IWOTH:
            return
        yield directory


def _read(path: Path, key: str | None) -> Setting | None:
    """A text of one pyproject.toml; without a key, whether it has a ``[tool.durasleep]``."""
    if not path.is_file():
        return None
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    table: dict[str, Any] = found
    for name in ("tool", "durasleep"):
        inner: object = table.get(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{path}: [tool.durasleep] is not a table")
        table = cast("dict[str, Any]", inner)
    if key is None:
        return Setting("", path) if table else None
    value = table.get(key)
    if not isinstance(value, str | None):
        raise UsageError(f"{path}: `{key}` under [tool.durasleep] is not a string")
    return Setting(value, path) if value else None
