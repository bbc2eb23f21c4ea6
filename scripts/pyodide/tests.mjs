// Runs pytest in CPython for WebAssembly: node tests.mjs PYODIDE ROOT PACKAGES ARGUMENT...
// PYODIDE is the folder of the npm package, ROOT the repository, PACKAGES the folder of the libraries.
import { pathToFileURL } from "node:url";

const [pyodide, root, packages, ...args] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${pyodide}/pyodide.mjs`));
const python = await loadPyodide({ env: { HOME: "/tmp", PYTHONDONTWRITEBYTECODE: "1", TERM: "dumb" } });
for (const [name, folder] of [["/root_of_tests", root], ["/packages", packages]]) {
  python.FS.mkdirTree(name);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: folder }, name);
}
python.globals.set("args", python.toPy(args));
const code = python.runPython(`
import asyncio, logging, os, sys, time
from asyncio import events

sys.path[:0] = ["/root_of_tests", "/packages"]
os.chdir("/root_of_tests")


class NoFiles:
    """A selector without sockets: there are none here."""

    def select(self, timeout):
        if timeout is None:
            raise RuntimeError("nothing is left that could end the wait")
        time.sleep(max(timeout, 0))
        return []


class Loop(asyncio.BaseEventLoop):
    """A plain loop with timers. That of Pyodide is the loop of the browser, which always runs already."""

    _selector = NoFiles()

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass


class Policy(events._BaseDefaultEventLoopPolicy):
    _loop_factory = Loop


events._set_running_loop(None)
events._set_event_loop_policy(Policy())

import pytest


class NothingIsTooSlow:
    def pytest_collection(self):
        from hypothesis import HealthCheck, settings

        settings.register_profile("slow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("slow")

    def pytest_sessionfinish(self):
        logging.disable()  # of the executions that tests have left, which are garbage now


print(f"Python {sys.version.split()[0]} on {sys.platform}", flush=True)
int(pytest.main(args, plugins=[NothingIsTooSlow()]))
`);
process.exit(code);
