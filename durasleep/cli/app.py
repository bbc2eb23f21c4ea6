"""The ``durasleep`` command: its options, its exit codes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import os
import sys

import click
import typer

from durasleep import __version__
from durasleep.cli import demo, promise, rpc, view, worker
from durasleep.errors import DurasleepError, StoreError, StoreUnavailable, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_REDIS = 4
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="durasleep",
    help="Durable timers and workflows, and a task queue, on the Redis you already run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("worker")(worker.worker)
app.command("dev")(worker.dev)
app.command("rpc")(rpc.rpc)
app.command("get")(rpc.get)
app.add_typer(promise.app, name="promise")
app.command("demo")(demo.demo)


def _show_version(asked: bool) -> None:
    if asked:
        view.data(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; never shows a traceback for a mistake of its user."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except UsageError as error:
        view.error(str(error))
        return EXIT_USAGE
    except StoreUnavailable as error:
        view.error(f"{error}. Start one with `durasleep dev`, or say where it is with --url.")
        return EXIT_NO_REDIS
    except StoreError as error:
        view.error(str(error))
        return EXIT_NO_REDIS
    except DurasleepError as error:
        view.error(str(error))
        return EXIT_FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has enough
        return 0
    return code if isinstance(code, int) else 0
