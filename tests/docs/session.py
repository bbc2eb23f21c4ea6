"""Runs the Python blocks of one page in a process of its own: requests come on stdin, answers go to a pipe.

The blocks share the names of one module, called ``page``. Code with ``await`` runs in an event loop that goes on during
the whole page, so a worker that was started in it works between the blocks, too.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import sys
import threading
import traceback
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

PAGE = ModuleType("page")


class Session:
    """The loop, and the workers that serve in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._workers = AsyncExitStack()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def wait(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def execute(self, file: str, line: int, source: str) -> None:
        """Run a block; its lines are counted as in the page."""
        importlib.invalidate_caches()
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile("\n" * line + source, file, "exec", flags=flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            self.wait(eval(code, vars(PAGE)))
        else:
            exec(code, vars(PAGE))

    def refuse(self, file: str, line: int, source: str, name: str) -> str | None:
        """Run a block that must raise an error of this name; what went wrong, if it did not."""
        try:
            self.execute(file, line, source)
        except Exception as error:
            if type(error).__name__ != name:
                raise
            sys.stdout.write(f"{error}\n")
            return None
        return f"{name} was not raised"

    def serve(self, name: str) -> None:
        """Start a worker for the application of this name."""
        self.wait(self._workers.enter_async_context(vars(PAGE)[name].serving()))

    def close(self) -> None:
        self.wait(self._workers.aclose())


def answer(session: Session, request: dict[str, Any]) -> str | None:
    """Do what is asked for; what went wrong, if anything did."""
    try:
        match request:
            case {"execute": source, "file": file, "line": line, "raises": None}:
                session.execute(file, line, source)
            case {"execute": source, "file": file, "line": line, "raises": name}:
                return session.refuse(file, line, source, name)
            case {"serve": name}:
                session.serve(name)
            case _:
                session.close()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the page is told
        return "".join(traceback.format_exception(error))
    return None


def main() -> None:
    sys.modules["page"] = PAGE
    sys.path[0] = ""
    session = Session()
    with open(int(sys.argv.pop()), "w", buffering=1) as answers:  # noqa: PTH123 - a descriptor
        for line in sys.stdin:
            error = answer(session, json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            print(json.dumps(error), file=answers)


if __name__ == "__main__":
    main()
