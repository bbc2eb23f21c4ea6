"""Runs a page as its reader would: in a directory of its own, with a real server."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import typer
import yaml

from durasleep.cli.app import app as cli
from harness import sdks
from harness.servers import free_port
from tests.cli.terminal import PATIENCE_S, Terminal, wait_for
from tests.docs.forking import FORWARDED_KILL
from tests.docs.pages import PARSED, ROOT, RUN, SHOWN, Block, Command, Comment, Wrong, commands, fits

DEFAULT_URLS = ("redis://localhost:6379/0", "redis://localhost:6379", "redis://localhost")
"""In the code of a page these are its server."""
NOT_HERE = frozenset(
    (
        *(
            ".",
            "apt-get",
            "brew",
            "cd",
            "conda",
            "docker",
            "export",
            "git",
            "helm",
            "journalctl",
            "kubectl",
            "pip",
            "pipx",
        ),
        *("poetry", "redis-cli", "source", "systemctl", "uv", "uvx", "valkey-cli"),
    )
)
"""Commands of readers that a machine for tests need not have."""

PYTEST_OPTIONS = "-p no:randomly -p no:hypothesispytest"
"""Plugins of this repository's tests, which import much and which the tests of a reader do not have."""


@dataclass
class Background:
    """A command that does not end."""

    command: Command
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, is_so: Callable[[str], bool], what: str) -> None:
        """Wait until its output is as wanted."""
        try:
            wait_for(lambda: is_so(self.output()) or self.process.poll() is not None, what)
        except AssertionError as error:
            raise Wrong(self.command.line, f"{error}; so far its output is:\n{self.output()}") from None
        if not is_so(self.output()):
            raise Wrong(self.command.line, f"it ended before it printed {what!r}:\n{self.output()}")

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it started, and wait for its end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, FORWARDED_KILL if number == signal.SIGKILL else number)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise Wrong(self.command.line, f"it does not end:\n{self.output()}") from None


@dataclass
class Run:
    """A page that runs: its directory, its server, and what it has started."""

    page: Path
    directory: Path
    bin: Path
    """The folder of a command ``durasleep`` that begins at once; see forking.py."""
    start_server: Callable[[], str]
    _url: str | None = None
    _has_server: bool = True
    _terminal: Terminal | None = None
    _session: PythonProcess | None = None
    _background: list[Background] = field(default_factory=list[Background])
    _ports: dict[str, str] = field(default_factory=dict[str, str])
    _printed: str = ""

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._session:
                self._session.end(is_broken=kind is not None)
        finally:
            for one in reversed(self._background):
                one.end(signal.SIGTERM if kind is None else signal.SIGKILL)

    def do(self, part: Block | Comment) -> None:
        """Do what a block or a comment says."""
        if isinstance(part, Comment):
            self._obey(part)
            return
        claim = part.said("tested by")
        if claim is not None:
            self._check_claim(part, claim)
        elif part.file:
            self._write(part, part.file)
        elif part.said("prints") is not None:
            if not fits(part.source, self._printed):
                raise Wrong(part.line, differs(part.source, self._printed))
        elif part.language == "python":
            self._printed = self._python().ask(
                part.line,
                execute=self._here(part.source),
                file=str(self.page),
                line=part.line,
                raises=part.said("raises"),
            )
        elif part.language == "console":
            self._run_commands(part)
        else:
            check(part)

    # -- comments

    def _obey(self, comment: Comment) -> None:
        match comment.name:
            case "worker" if comment.value.startswith("page:"):
                self._python().ask(comment.line, serve=comment.value.removeprefix("page:"))
            case "worker":
                self._start(Command(comment.line, f"durasleep worker {comment.value}", "", 0))
            case "until":
                if not self._background:
                    raise Wrong(comment.line, "nothing runs in the background")
                self._background[-1].wait_until(lambda output: fits(f"...{comment.value}...", output), comment.value)
            case "stop" | "kill":
                number = signal.SIGTERM if comment.name == "stop" else signal.SIGKILL
                self._started(comment).end(number)
            case "server" if comment.value == "none":
                self._has_server, self._terminal = False, None
            case "with" if comment.value == "resonate":
                self._use_sdks()
            case "port":
                self._ports[comment.value] = str(free_port())
            case _:
                raise Wrong(comment.line, f"{comment.name} cannot be {comment.value!r}")

    def _use_sdks(self) -> None:
        """From here on ``python3.12`` and ``node`` have Resonate's SDKs."""
        typescript, python = sdks.typescript(), sdks.python()
        (self.directory / "node_modules").symlink_to(typescript.modules)
        self._commands.mkdir()
        for name, program in (("node", typescript.node), ("python3.12", python)):
            command = self._commands / name  # no link: a Python in a virtual environment looks beside itself
            command.write_text(f'#!/bin/sh\nexec {shlex.quote(str(program))} "$@"\n')
            command.chmod(0o755)

    @property
    def _commands(self) -> Path:
        """A folder of commands for this page alone."""
        return self.directory.with_name(f"{self.directory.name}-commands")

    def _started(self, comment: Comment) -> Background:
        for one in reversed(self._background):
            if comment.value in one.command.text and one.process.poll() is None:
                return one
        raise Wrong(comment.line, f"no command {comment.value!r} runs in the background")

    def _check_claim(self, block: Block, claim: str) -> None:
        test = ROOT / claim
        if not test.is_file():
            raise Wrong(block.line, f"there is no {claim}")
        if self.page.name not in test.read_text():
            raise Wrong(block.line, f"{claim} does not name {self.page.name}")

    # -- blocks

    def _write(self, block: Block, name: str) -> None:
        path = self.directory / name
        if not path.resolve().is_relative_to(self.directory.resolve()):
            raise Wrong(block.line, f"{name} is outside of the page's directory")
        if block.language == "python":
            try:
                compile(block.source, name, "exec", dont_inherit=True)
            except SyntaxError as error:
                raise Wrong(block.line + (error.lineno or 0), str(error)) from None
        elif block.language in PARSED:
            check(block)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(block.source))

    def _run_commands(self, block: Block) -> None:
        for command in commands(block):
            if block.said("background") is not None:
                self._start(command)
                continue
            try:
                ran = subprocess.run(
                    self._bash(command),
                    cwd=self.directory,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise Wrong(
                    command.line, f"$ {command.text}\ndoes not end; is it for the background?\n{error}"
                ) from None
            output = ran.stdout + (ran.stderr if command.exit_code else "")
            if ran.returncode != command.exit_code:
                raise Wrong(
                    command.line,
                    f"$ {command.text}\nexit code {ran.returncode}\n{ran.stdout}{ran.stderr}{self._logs()}",
                )
            if command.shown.strip() and not fits(command.shown, output):
                raise Wrong(
                    command.line, f"$ {command.text}\n{differs(command.shown, output)}{ran.stderr}{self._logs()}"
                )
            self._printed = output

    def _start(self, command: Command) -> None:
        """Start a command, and wait until it has printed what the page shows, or that it is ready."""
        log = self.directory.with_name(f"{self.directory.name}-{len(self._background)}.log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._bash(command),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = Background(command, process, log)
        self._background.append(started)
        if command.shown.strip():
            started.wait_until(lambda output: fits(f"...{command.shown}...", output), command.shown)
        elif re.match(r"durasleep (worker|dev)\b", command.text):
            started.wait_until(lambda output: "is ready" in output, "is ready")

    # -- where it runs

    def _bash(self, command: Command) -> list[str]:
        return ["bash", "-o", "pipefail", "-c", self._here(command.text)]  # which becomes the command, if it is one

    def _environment(self) -> dict[str, str]:
        if self._terminal is None:
            more = {"DURASLEEP_REDIS_URL": self._server()} if self._has_server else {}
            path = (str(self._commands), str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"])
            more |= {"PATH": os.pathsep.join(path), "PYTEST_ADDOPTS": PYTEST_OPTIONS}
            self._terminal = Terminal(self.directory, COLUMNS="100", PYTHONUNBUFFERED="1", BROWSER="true", **more)
        return self._terminal.environment

    def _server(self) -> str:
        self._url = self._url or self.start_server()
        return self._url

    def _here(self, source: str) -> str:
        """The code with the page's server and ports."""
        for url in DEFAULT_URLS:
            if url in source and self._has_server:
                source = re.sub(rf"{re.escape(url)}(?![\w/:])", self._server(), source)
        for shown, port in self._ports.items():
            source = re.sub(rf"\b{shown}\b", port, source)
        return source

    def _python(self) -> PythonProcess:
        if self._session is None:
            self._session = PythonProcess(self.directory, self._environment())
        return self._session

    def _logs(self) -> str:
        return "".join(f"\n-- {one.command.text}:\n{one.output()[-3000:]}" for one in self._background)


class PythonProcess:
    """The process that runs the Python of a page."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._log = directory.with_name(f"{directory.name}-python.log")
        answers, theirs = os.pipe()
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("session.py")), str(theirs)],
                cwd=directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
            )
        os.close(theirs)
        self._answers = os.fdopen(answers)
        self._read = 0

    def ask(self, at: int, **request: Any) -> str:
        """What it printed while it did this."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answers.readline()
        output = self._log.read_text(errors="replace")
        printed, self._read = output[self._read :], len(output)
        error = json.loads(answer) if answer else "Python ended"
        if error:
            raise Wrong(at, f"{error}\n{printed}")
        return printed

    def end(self, *, is_broken: bool) -> None:
        """Let its workers leave, and end it; at once if the page is broken."""
        try:
            if not is_broken:
                self.ask(0, close=True)
        finally:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            self._answers.close()


def differs(shown: str, output: str) -> str:
    return f"expected:\n{shown.strip()}\ngot:\n{output.strip()}\n"


# -- what is not run


def check(block: Block) -> None:
    """Check a block that is not run."""
    match block.language:
        case "toml" | "yaml" | "json" | "ini" as language:
            try:
                _PARSE[language](block.source)
            except (ValueError, yaml.YAMLError, configparser.Error) as error:
                raise Wrong(block.line, f"this is no {language}: {error}") from None
        case "sh":
            for number, line in enumerate(re.sub(r"\\\n", "  ", block.source).splitlines(), block.line + 1):
                _check_line(number, line)
        case language if language in SHOWN:
            pass
        case language:
            known = ", ".join((*RUN, *PARSED, *SHOWN))
            raise Wrong(block.line, f"the language {language!r} is none of: {known}")


def _parse_ini(text: str) -> None:
    configparser.RawConfigParser(strict=False).read_string(text)


def _parse_yaml(text: str) -> None:
    for _ in yaml.safe_load_all(text):
        pass


_PARSE: dict[str, Callable[[str], object]] = {
    "toml": tomllib.loads,
    "yaml": _parse_yaml,
    "json": json.loads,
    "ini": _parse_ini,
}


def _check_line(number: int, line: str) -> None:
    """Check a line of a shell: each of its commands exists, and ours know their options."""
    words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command: list[str] = []
    for word in (*words, ";"):
        if word not in (";", "|", "||", "&&", "&"):
            command.append(word)
            continue
        while command and re.match(r"\w+=", command[0]):
            del command[0]
        if command:
            _check_command(number, command)
        command = []


def _check_command(number: int, words: list[str]) -> None:
    name = words[0]
    if name == "durasleep":
        check_durasleep(number, [word for word in words[1:] if word not in ("<", ">", ">>")])
    elif name == "sudo":
        _check_command(number, words[1:])
    elif name.startswith(("scripts/", ".venv/")):
        if not (ROOT / name).exists() and not name.startswith(".venv/"):
            raise Wrong(number, f"there is no {name}")
    elif name not in NOT_HERE and not shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        raise Wrong(number, f"there is no command {name}")


def check_durasleep(number: int, words: list[str]) -> None:
    """Let the command line parse these words, and run nothing."""
    command: Any = typer.main.get_command(cli)
    context: Any = None
    name = "durasleep"
    try:
        while True:
            context = command.make_context(name, [*words], parent=context)
            if not hasattr(command, "resolve_command"):
                return
            rest = [*getattr(context, "_protected_args", ()), *context.args]
            name, command, words = command.resolve_command(context, rest)
    except Exception as error:  # noqa: BLE001 - click's, which typer brings itself or not
        if type(error).__name__ != "Exit":  # of --help
            told: Any = error
            text = told.format_message() if hasattr(told, "format_message") else repr(told)
            raise Wrong(number, f"durasleep {' '.join(words)}: {text}") from None
