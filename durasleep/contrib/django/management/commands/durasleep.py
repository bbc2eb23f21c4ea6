"""``manage.py durasleep``: the command line, for the Redis and the namespace of the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from durasleep.cli.app import run
from durasleep.contrib.django import application

_WORKER = "durasleep.contrib.django.worker"


class Command(BaseCommand):
    """Passes all arguments on."""

    help = "Everything that `durasleep` does: manage.py durasleep worker, ls, get, ..."
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """All options are those of ``durasleep``; ``argv`` is that of ``manage.py``."""
        sys.exit(_run(argv[2:], f"{os.path.basename(argv[0])} {argv[1]}"))  # noqa: PTH119 - as Django shows itself

    def add_arguments(self, parser: CommandParser) -> None:
        """For ``call_command("durasleep", "ls", "--json")``."""
        parser.add_argument("arguments", nargs="*")

    def handle(self, *_: Any, arguments: Sequence[str], **__: Any) -> None:
        """Run it; CommandError if it has not succeeded, whose sentence is on stderr."""
        if code := _run(arguments, "durasleep"):
            raise CommandError(f"durasleep {' '.join(arguments)} ended with {code}", returncode=code)


def _run(arguments: Sequence[str], name: str) -> int:
    options = application.configured()
    url = options.get("url")
    if url is not None and not isinstance(url, str):
        raise CommandError("DURASLEEP has a client of redis-py as its url: give a URL, which commands can use, too")
    os.environ.setdefault("DURASLEEP_APP", _WORKER)
    if url:
        os.environ["DURASLEEP_REDIS_URL"] = url
    if namespace := options.get("namespace"):
        os.environ["DURASLEEP_NAMESPACE"] = namespace
    # The processes of --processes and --reload import the project, too, whose directory is the first of our path.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    return run(arguments, name)
