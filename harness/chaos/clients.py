"""Clients as applications have them, in a process of their own: one sync client for threads and forked children, one
application for several event loops. Each call must get its own result. Prints each mistake on a line and, at the end,
on SIGTERM, the number of right answers: ``python -m harness.chaos.clients``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable

from durasleep import Durasleep, DurasleepError, sync
from harness.chaos import reach
from harness.chaos.work import echo

THREADS = 4
LOOPS = 2
PAUSE_S = 0.1
FORKS_EVERY_S = 1.0
ANSWER_S = 30.0  # for one result; after that the call gives up, as it should
CHILD_S = 120.0

RIGHT, WRONG = 0, 1


class Clients:
    """All of them, until they are stopped."""

    def __init__(self) -> None:
        self._sync = sync.Client(reach.source())
        self._app = Durasleep(reach.source())
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.right = 0
        self.gave_up = 0

    def stop(self, *_: object) -> None:
        self._stopped.set()

    def run(self) -> None:
        threads = [threading.Thread(target=self._go_on, args=(f"thread-{n}", self._ask)) for n in range(THREADS)]
        threads += [threading.Thread(target=self._go_on, args=(f"loop-{n}", self._ask_in_loop)) for n in range(LOOPS)]
        for thread in threads:
            thread.start()
        children = 0
        while not self._stopped.wait(FORKS_EVERY_S):
            self._fork(f"child-{children}")
            children += 1
        for thread in threads:
            thread.join()

    def _go_on(self, who: str, ask: Callable[[str], str]) -> None:
        count = 0
        while not self._stopped.wait(PAUSE_S):
            self._once(f"around-{os.getpid()}-{who}-{count}", ask)
            count += 1

    def _once(self, id: str, ask: Callable[[str], str]) -> int:
        try:
            told = ask(id)
        except DurasleepError:
            with self._lock:
                self.gave_up += 1
            return RIGHT
        except BaseException as error:  # noqa: BLE001 - any error is a mistake
            log(f"{id} ended with {error!r}")
            return WRONG
        if told != id:
            log(f"{id} was told {told!r}")
            return WRONG
        with self._lock:
            self.right += 1
        return RIGHT

    def _ask(self, id: str) -> str:
        return self._sync.rpc(id, echo, id).result(timeout=ANSWER_S)

    def _ask_in_loop(self, id: str) -> str:
        async def ask() -> str:
            return await (await self._app.rpc(id, echo, id)).result(timeout=ANSWER_S)

        return asyncio.run(ask())

    def _fork(self, who: str) -> None:
        """A child process uses the client of its parent, while the parent's other threads go on."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._lock = threading.Lock()
            os._exit(max(self._once(f"around-{parent}-{who}-{n}", self._ask) for n in range(3)))
        give_up_at = time.monotonic() + CHILD_S
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > give_up_at:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                log(f"{who} hung")
                return
            time.sleep(PAUSE_S)
        with self._lock:
            self.right += 1


def log(line: str) -> None:
    print(f"wrong: {line}", flush=True)


def main() -> None:
    clients = Clients()
    signal.signal(signal.SIGTERM, clients.stop)
    clients.run()
    print(json.dumps({"right": clients.right, "gave_up": clients.gave_up}), flush=True)
    os._exit(0)  # the line of a call shows if it hangs


if __name__ == "__main__":
    main()
