"""Which Redis, which application: from options, the environment, pyproject.toml, or a `durasleep dev` nearby."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

from durasleep import devserver
from durasleep.app import DEFAULT_URL, Durasleep
from durasleep.errors import UsageError

DEFAULT_NAMESPACE = "durasleep"


def configured(key: str) -> str | None:
    """``key`` under ``[tool.durasleep]`` of the pyproject.toml in this directory; None if it is not there."""
    path = Path("pyproject.toml")
    if not path.is_file():
        return None
    try:
        found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"pyproject.toml cannot be read: {error}") from None
    for name in ("tool", "durasleep", key):
        if not isinstance(found, dict):
            raise UsageError("pyproject.toml: [tool.durasleep] is not a table")
        found = cast("dict[str, Any]", found).get(name, None if name == key else {})
    if not isinstance(found, str | None):
        raise UsageError(f"pyproject.toml: `{key}` under [tool.durasleep] is not a text")
    return found or None


def named_url(url: str | None) -> str | None:
    """The Redis somebody named: the option, the environment, pyproject.toml, a `durasleep dev` of this directory."""
    named = url or os.environ.get("DURASLEEP_REDIS_URL") or os.environ.get("REDIS_URL") or configured("url")
    return named or devserver.discover()


def find_url(url: str | None) -> str:
    """The Redis to use; localhost if nobody named one."""
    return named_url(url) or DEFAULT_URL


def find_namespace(namespace: str | None) -> str:
    """The namespace to use: the option, the environment, pyproject.toml, or ``durasleep``."""
    return namespace or os.environ.get("DURASLEEP_NAMESPACE") or configured("namespace") or DEFAULT_NAMESPACE


def open_client(url: str | None, namespace: str | None) -> Durasleep:
    """The client side of an application, wherever its functions are."""
    return Durasleep(find_url(url), namespace=find_namespace(namespace))


def named_app(module: str | None) -> str | None:
    """``MODULE[:ATTR]`` somebody named: the argument, the environment, or pyproject.toml."""
    return module or os.environ.get("DURASLEEP_APP") or configured("app")


def find_app(module: str | None) -> str:
    """``MODULE[:ATTR]`` of the application; UsageError if nobody named one."""
    named = named_app(module)
    if named is None:
        raise UsageError(
            "no application is named: give MODULE[:ATTR], set DURASLEEP_APP, or write "
            '`app = "module:attr"` under [tool.durasleep] in pyproject.toml'
        )
    return named


def load_app(name: str) -> Durasleep:
    """Import ``MODULE[:ATTR]``; without ATTR it is ``app``, or the only Durasleep object of the module."""
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    if attribute:
        found = getattr(module, attribute, None)
        if isinstance(found, Durasleep):
            return found
        problem = f"{name} is no Durasleep object" if hasattr(module, attribute) else f"there is no {name}"
        raise UsageError(f"{problem}; {_suggest(module_name, module)}")
    found = getattr(module, "app", None)
    if isinstance(found, Durasleep):
        return found
    apps = _apps(module)
    if len(apps) != 1:
        raise UsageError(f"{module_name!r} has no `app` that is a Durasleep object; {_suggest(module_name, module)}")
    return next(iter(apps.values()))


def _import(name: str) -> Any:
    path = Path(name)
    if path.suffix == ".py" or os.sep in name:
        module = ".".join(path.with_suffix("").parts)
        raise UsageError(f"{name!r} is a file: name the module it is, such as {module.strip('./') or 'module'}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is not the name of a module: write MODULE or MODULE:ATTR, such as welcome:app")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {error.name!r} in {directory}, nor is it installed") from None
        raise _not_imported(name, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's module raises is said in one sentence
        raise _not_imported(name, error) from None


def _not_imported(name: str, error: BaseException) -> UsageError:
    return UsageError(
        f"{name!r} cannot be imported ({type(error).__name__}: {error}); `python -c 'import {name}'` shows where"
    )


def _apps(module: Any) -> dict[str, Durasleep]:
    """The Durasleep objects of a module, each once, by the first of its names."""
    found: dict[str, Durasleep] = {}
    for name, value in cast("dict[str, object]", vars(module)).items():
        if isinstance(value, Durasleep) and all(value is not other for other in found.values()):
            found[name] = value
    return found


def _suggest(name: str, module: Any) -> str:
    apps = _apps(module)
    if not apps:
        return f"write `app = Durasleep()` in {name!r}, or name the module that has it"
    return f"there is {', '.join(f'{name}:{attribute}' for attribute in apps)}"
