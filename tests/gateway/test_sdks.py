"""Resonate's own SDKs, as they are: only the URL is ours. They run the examples in ``examples/resonate``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from durasleep import Context, Durasleep, RemoteError
from harness import sdks
from harness.servers import Server
from tests.gateway.gateways import Served, serving
from tests.service.workers import PATIENCE_S, ROOT
from tests.service.workers import serving as working

pytestmark = pytest.mark.timeout(600)  # the first one installs the SDKs, if nobody has done it

EXAMPLES = ROOT / "examples" / "resonate"
PROGRAMS = Path(__file__).parent / "programs"
ENDINGS = {
    "sleep": "ada was told: Your trial ends.",
    "fan_out": 50,
    "rpc_by_group": ["sea.png of 100 pixels", "sky.png of 100 pixels"],
    "approval": "250 EUR approved",
    "schedule": "two reports: sales, sales",
    "detached": "how do you like your tea?",
}
RECOVERED = "tea is paid, tea is packed"


class Program:
    """A program in another process; what it prints is read line by line, and kept."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, begin: str) -> str:
        """The next line that begins so."""
        assert self.process.stdout
        while True:
            try:
                line = (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)).decode()
            except TimeoutError:
                pytest.fail(f"no line {begin!r} came after\n{''.join(self.lines)}")
            assert line, f"it has ended without {begin!r}:\n{''.join(self.lines)}"
            self.lines.append(line)
            if line.startswith(begin):
                return line.strip()

    async def kill(self) -> None:
        """kill -9, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


Run = Callable[..., contextlib.AbstractAsyncContextManager[Program]]
"""Starts a program of a folder: ``run("sleep", "argument")``."""


@asynccontextmanager
async def running(*command: str | Path, **environment: str) -> AsyncGenerator[Program]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **environment}
    )
    program = Program(process)
    try:
        yield program
    finally:
        await program.kill()


def python(version: str, url: str, directory: Path) -> Run:
    interpreter = sdks.python(version)
    folder = _folder("python", directory)

    def run(name: str, *arguments: str) -> contextlib.AbstractAsyncContextManager[Program]:
        return running(interpreter, folder / f"{name}.py", *arguments, RESONATE_URL=url)

    return run


def typescript(url: str, directory: Path) -> Run:
    sdk = sdks.typescript()
    folder = _folder("typescript", directory)
    (folder / "node_modules").symlink_to(sdk.modules)

    def run(name: str, *arguments: str) -> contextlib.AbstractAsyncContextManager[Program]:
        return running(sdk.node, folder / f"{name}.ts", *arguments, RESONATE_URL=url)

    return run


def _folder(language: str, directory: Path) -> Path:
    """The examples, with the program that runs several."""
    folder = Path(
        shutil.copytree(EXAMPLES / language, directory / language, ignore=shutil.ignore_patterns("node_modules"))
    )
    for program in PROGRAMS.iterdir():
        shutil.copy(program, folder)
    return folder


async def run_examples(run: Run) -> dict[str, object]:
    """Run all examples in one process; approve what they ask for as they say, in another one."""
    async with run("stories", "story", *ENDINGS) as program:
        asked = await program.line("may we spend 250 EUR?")
        async with run("approval", asked.split()[-1]) as approving:
            assert await approving.process.wait() == 0
        while len(told := results(program)) < len(ENDINGS):
            await program.line("{")
        assert await asyncio.wait_for(program.process.wait(), PATIENCE_S) == 0, program.lines
        return told


def results(program: Program) -> dict[str, object]:
    found: dict[str, object] = {}
    for line in program.lines:
        if line.startswith('{"') and "level" not in line:
            found |= json.loads(line)
    return found


async def recover(run: Run) -> list[str]:
    """Kill a worker in its second step; the lines of the one that goes on."""
    async with run("recovery", "slow") as first:
        await first.line("charging")
        await first.line("packing")
        await first.kill()
    async with run("recovery") as second:
        await second.line(RECOVERED)
        # The SDK may say that a task is taken already: it asks for it, and is also sent a message.
        return [line for line in second.lines if line.startswith(("charging", "packing", RECOVERED))]


async def reported(run: Run) -> str:
    """What an example says that is a process of its own."""
    async with run("schedule") as program:
        return await program.line("two reports")


async def check(run: Run) -> None:
    recovered, said = await asyncio.gather(recover(run), reported(run))
    told = await run_examples(run)  # after `reported`, which is of the same group and knows none of these functions
    assert told == ENDINGS
    assert said == ENDINGS["schedule"]
    assert recovered == ["packing\n", f"{RECOVERED}\n"]


@pytest.mark.parametrize("version", [sdks.PYTHON, sdks.OLDER_PYTHON])
async def test_the_python_sdk_tells_its_stories(gateway: Served, version: str, tmp_path: Path) -> None:
    await check(python(version, gateway.url, tmp_path))


async def test_the_typescript_sdk_tells_its_stories(gateway: Served, tmp_path: Path) -> None:
    await check(typescript(gateway.url, tmp_path))


async def test_a_parent_in_python_has_children_in_typescript(gateway: Served, tmp_path: Path) -> None:
    in_python = python(sdks.PYTHON, gateway.url, tmp_path)
    in_typescript = typescript(gateway.url, tmp_path)
    async with in_typescript("rpc_by_group", "worker"), in_python("rpc_by_group") as parent:
        await parent.line("['sea.png of 100 pixels', 'sky.png of 100 pixels']")


async def scripts_in(directory: Path) -> str:
    """The folder of the scripts, written as users write it."""
    async with running(sys.executable, "-m", "durasleep.protocol.script", directory / "lua") as writing:
        assert await writing.process.wait() == 0
    return str(directory / "lua")


async def test_the_sdks_work_on_redis_without_a_gateway(client: Durasleep, one_server: Server, tmp_path: Path) -> None:
    await client.init()
    asked = one_server.url, client.namespace, await scripts_in(tmp_path)
    in_python, in_typescript = python(sdks.PYTHON, "", tmp_path), typescript("", tmp_path)
    async with in_typescript("without_gateway", *asked) as typed, in_python("without_gateway", *asked) as other:
        told = json.loads(await other.line("["))
        assert told == [ENDINGS["sleep"], ENDINGS["rpc_by_group"], sum(range(200))]
        assert await typed.line(str(sum(range(200))))


async def test_a_connector_refuses_a_namespace_with_several_partitions_or_none(
    client: Durasleep, one_server: Server, tmp_path: Path
) -> None:
    await client.init(partitions=2)
    scripts = await scripts_in(tmp_path)
    in_python, in_typescript = python(sdks.PYTHON, "", tmp_path), typescript("", tmp_path)
    for namespace, why in (
        (client.namespace, "the namespace has 2 partitions: this needs one"),
        ("nobody", "there is no namespace nobody: durasleep init makes it"),
    ):
        asked = one_server.url, namespace, scripts
        async with in_typescript("without_gateway", *asked) as typed, in_python("without_gateway", *asked) as other:
            await typed.line(f"Error: {why}")
            await other.line(f"ValueError: {why}")


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (partial(python, sdks.PYTHON), "pictures.Error: sea.png cannot be so wide"),
        (typescript, "pictures.RangeError: sea.png cannot be so wide"),
    ],
    ids=["python", "typescript"],
)
async def test_durasleep_and_an_sdk_call_each_other(
    client: Durasleep, make: Callable[[str, Path], Run], refusal: str, tmp_path: Path
) -> None:
    """The programs of docs/how-to/bridge.md."""

    @client.workflow
    async def album(ctx: Context, width: int) -> object:
        return await ctx.rpc("resize", {"name": "sea.png"}, width, target="poll://any@pictures")

    @client.task
    def add_tax(price: int) -> float:
        if price < 0:
            raise ValueError("a price is not negative")
        return 1.2 * price

    async with serving(client, bridge=["pictures"]) as served, working(client):
        run = make(served.url, tmp_path)
        async with run("bridge", "worker"), run("bridge", "200") as one, run("bridge", "-1") as two:
            small, wide = await client.rpc("small", album, 100), await client.rpc("wide", album, 2000)
            assert await small.result(PATIENCE_S) == {"name": "sea.png", "width": 100}
            with pytest.raises(RemoteError, match=f"^{refusal}$"):
                await wide.result(PATIENCE_S)
            assert await one.line("with tax") == "with tax: 240" + (".0" if make is not typescript else "")
            assert (await two.line("failed")).endswith("a price is not negative")
