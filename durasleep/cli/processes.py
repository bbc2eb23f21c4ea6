"""Several worker processes under one command, for tasks that need more than one core: Python has one a process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from durasleep.app import EXIT_RESTART

_PARENT = "DURASLEEP_PARENT"
"""The environment variable that names the parent process: its death ends the child."""

LOOK_S = 0.2
_RESTART_S = 1.0  # a process that dies at once would die again

logger = logging.getLogger("durasleep")


def serve(
    commands: Sequence[Sequence[str]],
    environment: Mapping[str, str],
    on_look: Callable[[bool], None] = lambda _: None,
    descriptors: Sequence[int] = (),
) -> int:
    """Run each command until SIGTERM or Ctrl-C, which goes to all of them; returns the exit code.

    A process that was killed by a signal, or that asks for it, is started again. If a process ends by itself, the
    others are ended, too. ``environment`` is added to ours, and they get these open ``descriptors``. ``on_look`` is
    called several times a second, with whether they are to end.
    """
    received: list[int] = []
    wake = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    children = [start(command, environment, pass_fds=descriptors) for command in commands]
    code, passed_on = 0, 0
    while any(child.poll() is None for child in children):
        wake.wait(LOOK_S)
        wake.clear()
        on_look(bool(received))
        while passed_on < len(received):
            _notify_all(children, signal.SIGTERM)  # Ctrl-C twice is SIGTERM twice: the second ends a worker at once
            passed_on += 1
        for at, child in enumerate(children):
            ended = child.poll()
            if ended is None or received:
                continue
            if ended < 0 or ended == EXIT_RESTART:
                why = "asks for a new start" if ended == EXIT_RESTART else f"was killed by {_name_of(-ended)}"
                logger.warning("worker process %d %s: started again", child.pid, why)
                time.sleep(_RESTART_S)
                children[at] = start(commands[at], environment, pass_fds=descriptors)
            else:
                code = ended
                received.append(signal.SIGTERM)
    return code


def is_child() -> bool:
    """Whether this process is one of several that a parent has started."""
    return _PARENT in os.environ


def end_with_parent() -> None:
    """In a child: send SIGTERM to ourselves when the parent is gone, for whatever reason."""
    if not is_child():
        return
    parent = int(os.environ[_PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_RESTART_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="durasleep-parent", daemon=True).start()


def start(
    command: Sequence[str], environment: Mapping[str, str], *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Run a command as a child that ends with us and has the files ``pass_fds``; it gets no Ctrl-C of the terminal."""
    # In a session of its own: Ctrl-C goes to the parent, which passes it on once.
    return subprocess.Popen(
        [sys.executable, "-m", "durasleep", *command],
        env={**os.environ, **environment, _PARENT: str(os.getpid())},
        start_new_session=True,
        pass_fds=pass_fds,
    )


def _notify_all(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
