"""Finds the Redis and the application: from options, the environment, pyproject.toml, or a `durasleep dev` nearby."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from durasleep import address
from durasleep.address import Address, Candidate, configured, project_directory
from durasleep.cli.output import json_values
from durasleep.errors import UsageError

if TYPE_CHECKING:  # the help and the mistakes of users need no client: commands import it where they run
    from durasleep.app import Durasleep

_DEFAULT_NAMESPACE = "durasleep"
_APP_VARIABLE = "DURASLEEP_APP"
_PYPROJECT = "pyproject.toml"
_ALIKE = 0.85  # of 1: DURASLEEP_APPS, DURASLEP_APP
_LOOKED_AT_MAX = 10_000  # files and folders: a folder with more is no empty one
_READ_MAX = 1 << 20  # bytes of a file: an application is shorter

SAMPLE = "durasleep.sample"
"""The application that is served in an empty folder."""


def find_url(url: str | None) -> Address:
    """The Redis to use: the one of the option, else the one that any program finds."""
    return address.find(_option(url))


def _option(url: str | None) -> Candidate:
    return Candidate("--url", lambda: Address(url, "--url") if url else None, "it is not given")


def find_namespace(namespace: str | None) -> str:
    """The namespace to use: the option, the environment, pyproject.toml, or ``durasleep``."""
    named = namespace or os.environ.get("DURASLEEP_NAMESPACE")
    if named:
        return named
    setting = configured("namespace")
    return setting.value if setting else _DEFAULT_NAMESPACE


def find_by(by: str | None) -> str:
    """Who gives a command, for the audit: the option, the environment, or the user of this machine."""
    from durasleep.client import requests
    from durasleep.model import check_by

    named = by or os.environ.get("DURASLEEP_USER")
    return check_by(named) if named else requests.user_and_host()


def open_client(url: str | None, namespace: str | None, *, by: str | None = None) -> Durasleep:
    """The client side of an application, wherever its functions are. What it does ``by`` somebody is kept."""
    from durasleep.app import Durasleep

    return Durasleep(find_url(url).url, namespace=find_namespace(namespace), by=by)


def named_app(module: str | None) -> str | None:
    """The ``MODULE[:ATTR]`` that is named by the argument, the environment, or pyproject.toml; None without any."""
    named = module or os.environ.get(_APP_VARIABLE)
    if named:
        return named
    setting = configured("app")
    return setting.value if setting else None


def point(app: Durasleep, url: str | None) -> Address:
    """Let an application use the Redis of the option, if that is given; else it uses its own. Returns which."""
    if url:
        app.connect(url)
        return find_url(url)
    return app.address


def find_app(module: str | None) -> str:
    """``MODULE[:ATTR]`` of the application; UsageError if none is named."""
    named = named_app(module)
    if named is None:
        raise UsageError(
            "no application is named: give MODULE[:ATTR], set DURASLEEP_APP, or write "
            f'`app = "module:attr"` under [tool.durasleep] in pyproject.toml{_guess()}'
        )
    return named


def _guess() -> str:
    """What may have been meant by who named no application, as the end of a sentence."""
    meant = _meant_variable()
    if meant:
        return f"; {meant} is {'empty' if meant == _APP_VARIABLE else 'set, but is not its name'}"
    for path in sorted(Path().glob("*.py")):
        with contextlib.suppress(OSError):
            if path.stem.isidentifier() and b"Durasleep(" in path.read_bytes()[:_READ_MAX]:
                return f"; {path.name} may have one: durasleep worker {path.stem}"
    return f"; `durasleep worker {SAMPLE}` serves the built-in sample"


def sample_app() -> str | None:
    """The name of the built-in sample, which is served where nobody can have meant another application.

    None if there is a Python file in this folder or below, a pyproject.toml, or a variable that may be a misspelt
    DURASLEEP_APP: then whoever named no application is to hear it.
    """
    is_named = Path(_PYPROJECT).exists() or project_directory() or _meant_variable()
    return None if is_named or _has_python() else SAMPLE


def _meant_variable() -> str | None:
    """The variable of the environment that was to name the application: its name is misspelt, or its value empty."""
    return next(iter(get_close_matches(_APP_VARIABLE, os.environ, n=1, cutoff=_ALIKE)), None)


def _has_python() -> bool:
    """Whether there is a Python file in this folder or below, or too much to tell; what is hidden or installed is not
    looked at.
    """
    seen = 0
    for path, folders, files in os.walk("."):
        if any(file.endswith(".py") for file in files):
            return True
        seen += 1 + len(files)
        if seen > _LOOKED_AT_MAX:
            return True
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_installed(Path(path, name))]
    return False


def _is_installed(folder: Path) -> bool:
    return folder.name == "node_modules" or (folder / "pyvenv.cfg").exists()


def load_app(name: str) -> Durasleep:
    """Import ``MODULE[:ATTR]``; without ATTR it is ``app``, or the only Durasleep object of the module."""
    from durasleep.app import Durasleep

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
        raise UsageError(f"{name!r} is a file: give the name of its module, such as {module.strip('./') or 'module'}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is not the name of a module: write MODULE or MODULE:ATTR, such as welcome:app")
    directory = str(Path.cwd())
    above = project_directory()  # names in a pyproject.toml are relative to its directory
    for folder in (str(above or directory), directory):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {error.name!r} in {directory}, and none is installed") from None
        raise _not_imported(name, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any error of a user's module becomes one sentence
        raise _not_imported(name, error) from None


def _not_imported(name: str, error: BaseException) -> UsageError:
    return UsageError(
        f"{name!r} cannot be imported ({type(error).__name__}: {error}); `python -c 'import {name}'` shows where"
    )


def _apps(module: Any) -> dict[str, Durasleep]:
    """The Durasleep objects of a module, each once, by the first of its names."""
    from durasleep.app import Durasleep

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


# -- saying it -----------------------------------------------------------------


def _begin_explaining(context: typer.Context, asked: bool) -> bool:
    if asked:
        context.resilient_parsing = True  # its required arguments are not needed here
    return asked


ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain-address",
        callback=_begin_explaining,
        is_eager=True,
        help="Only show which Redis would be used, and why.",
    ),
]


def explained(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that connects gets the option ``--explain-address``, with which it does not connect."""
    signature = inspect.signature(command, eval_str=True)
    explain = inspect.Parameter(
        "explain_address", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=ExplainOption
    )

    @wraps(command)
    def run(*, explain_address: bool = False, **given: Any) -> Any:
        if not explain_address:
            return command(**given)
        named = [_option(given["url"])]
        if "module" in given:
            named.append(_of_application(given["module"]))
        _explain([*named, *address.RULE])
        return 0

    described = cast("Any", run)
    described.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")  # the help breaks lines itself
    described.__signature__ = signature.replace(parameters=[*signature.parameters.values(), explain])
    described.__annotations__ = {name: one.annotation for name, one in described.__signature__.parameters.items()}
    return run


def _of_application(module: str | None) -> Candidate:
    """The Redis that the application of a command names."""
    name = named_app(module)

    def find() -> Address | None:
        app = load_app(name) if name else None
        return app.address if app and app.is_addressed else None

    return Candidate("the application", find, f"{name} names none" if name else "no application is named")


def _explain(candidates: Sequence[Candidate]) -> None:
    """Print the candidates in order, and which one is used; raises the error if none can be found."""
    from durasleep.transport.connector import without_secret

    found: Address | None = None
    problem: UsageError | None = None
    for one in candidates:
        try:
            names = one.find()
            says = without_secret(names.url) if names else one.otherwise
        except UsageError as error:
            names, says = None, str(error)
            problem = problem or (error if found is None else None)
        json_values.data(f"{one.name + ':':<21}{says}")
        found = found or names
    if problem:
        raise problem
    json_values.data(f"used: {found}")
