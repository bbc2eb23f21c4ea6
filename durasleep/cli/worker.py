"""``durasleep worker`` and ``durasleep dev``."""

from __future__ import annotations

from typing import Annotated

import typer

from durasleep import devserver
from durasleep.app import Durasleep, run_worker
from durasleep.cli import address, view
from durasleep.errors import UsageError

ModuleArgument = Annotated[
    str | None, typer.Argument(metavar="[MODULE[:ATTR]]", help="The application; else pyproject.toml, DURASLEEP_APP.")
]
UrlOption = Annotated[str | None, typer.Option("--url", metavar="URL", help="The Redis to use.")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="The namespace to use.")]
GroupOption = Annotated[str | None, typer.Option("--group", metavar="NAME", help="The group to serve.")]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", min=1, max=10_000, help="Executions at a time.")]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="The worker's name; else host and pid.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]


def worker(
    module: ModuleArgument = None,
    group: GroupOption = None,
    concurrency: ConcurrencyOption = 100,
    name: NameOption = None,
    url: UrlOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve a group: run its workflows and tasks until SIGTERM or Ctrl-C."""
    view.log_to_stderr(verbose)
    app = address.load_app(address.find_app(module))
    named = address.named_url(url)
    if url or not app.is_addressed:
        app.connect(named or address.find_url(None))
    run_worker(app.worker(group=group, name=name, concurrency=concurrency))


def dev(
    module: ModuleArgument = None,
    group: GroupOption = None,
    concurrency: ConcurrencyOption = 100,
    verbose: VerboseOption = False,
) -> None:
    """A Redis of this directory, kept in ./.durasleep/, and a worker; other commands here find it."""
    view.log_to_stderr(verbose)
    app = _app_or_none(module)
    with devserver.DevServer(devserver.DIRECTORY) as server:
        kept = f"keeps its data in {devserver.DIRECTORY}/" if server.keeps else "keeps nothing"
        view.note(f"{server.binary.kind} at {server.url} {kept}")
        if app is None:
            view.note("no application is named: this is only the server (Ctrl-C ends it)")
            app = Durasleep()
        app.connect(server.url)
        run_worker(app.worker(group=group, concurrency=concurrency))


def _app_or_none(module: str | None) -> Durasleep | None:
    """The application, or None if nobody named one."""
    try:
        name = address.find_app(module)
    except UsageError:
        return None
    return address.load_app(name)
