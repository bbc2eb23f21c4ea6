"""Which Redis, which application: from options, the environment, pyproject.toml, or a `durasleep dev` nearby."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from durasleep import devserver
from durasleep.app import DEFAULT_URL, Durasleep
from durasleep.errors import UsageError

DEFAULT_NAMESPACE = "durasleep"


def configured() -> dict[str, Any]:
    """``[tool.durasleep]`` of the pyproject.toml in this directory; empty if there is none."""
    path = Path("pyproject.toml")
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("durasleep", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"pyproject.toml cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise UsageError("pyproject.toml: [tool.durasleep] is not a table")
    return table  # pyright: ignore[reportUnknownVariableType] - as TOML has it; each use checks


def named_url(url: str | None) -> str | None:
    """The Redis somebody named: the option, the environment, pyproject.toml, a `durasleep dev` of this directory."""
    named = url or os.environ.get("DURASLEEP_REDIS_URL") or os.environ.get("REDIS_URL") or configured().get("url")
    return str(named) if named else devserver.discover()


def find_url(url: str | None) -> str:
    """The Redis to use; localhost if nobody named one."""
    return named_url(url) or DEFAULT_URL


def find_namespace(namespace: str | None) -> str:
    """The namespace to use: the option, the environment, pyproject.toml, or ``durasleep``."""
    found = namespace or os.environ.get("DURASLEEP_NAMESPACE") or configured().get("namespace") or DEFAULT_NAMESPACE
    return str(found)


def find_app(module: str | None) -> str:
    """``MODULE[:ATTR]`` of the application: the argument, the environment, or pyproject.toml."""
    named = module or os.environ.get("DURASLEEP_APP") or configured().get("app")
    if not named:
        raise UsageError(
            "no application is named: give MODULE[:ATTR], set DURASLEEP_APP, or write "
            '`app = "module:attr"` under [tool.durasleep] in pyproject.toml'
        )
    return str(named)


def load_app(name: str) -> Durasleep:
    """Import ``MODULE[:ATTR]``; without ATTR it is ``app``, or the only Durasleep object of the module."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - whatever the user's module raises is said in one sentence
        raise UsageError(
            f"{module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            f'`python -c "import {module_name}"` shows where'
        ) from None
    if attribute:
        found = getattr(module, attribute, None)
        if isinstance(found, Durasleep):
            return found
        raise UsageError(f"{module_name}:{attribute} is not a Durasleep object")
    apps = [value for value in vars(module).values() if isinstance(value, Durasleep)]
    found = getattr(module, "app", None)
    if isinstance(found, Durasleep):
        return found
    if len(apps) != 1:
        raise UsageError(f"{module_name!r} has {len(apps)} Durasleep objects: name one as {module_name}:ATTR")
    return apps[0]
