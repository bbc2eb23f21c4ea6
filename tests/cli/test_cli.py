"""The command line, run as its users run it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from durasleep.errors import DurasleepError
from durasleep.protocol.keys import Keyspace, meta_key
from harness.servers import MakeServer
from tests.cli.conftest import NewProject, Quick
from tests.cli.terminal import COMMAND, PATIENCE_S, ROOT, Terminal, lines, wait_for

APP = """
import datetime
from dataclasses import dataclass
from pathlib import Path

from durasleep import Context, Durasleep

app = Durasleep()

@dataclass
class Receipt:
    id: str
    cents: int

@app.workflow
async def greet(ctx: Context, name: str, times: int = 1) -> str:
    print(f"greeting {name}")
    return "\\n".join([f"hello {name}"] * times)

@app.workflow
async def receipt(ctx: Context, cents: int) -> Receipt:
    return Receipt(ctx.info.id, cents)

@app.workflow
async def fail(ctx: Context) -> None:
    raise LookupError("no such order")

@app.workflow
async def sleep(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds, name="nap")
    return f"slept {seconds}"

@app.workflow
async def changing(ctx: Context) -> None:
    if Path("changed").exists():
        await ctx.run(noon, datetime.date.today())
    await ctx.sleep(600, name="nap")

@app.task
def noon(day: datetime.date) -> bytes:
    return day.isoformat().encode()
"""


@pytest.fixture
def here(new_project: NewProject) -> Terminal:
    return new_project(shop=APP)


@pytest.fixture
def worker(here: Terminal) -> Iterator[subprocess.Popen[bytes]]:
    with here.running("worker", "shop", "--name", "w1", until="worker w1 of group workers is ready") as process:
        yield process


def clone_with_redis(make_server: MakeServer) -> Terminal:
    """A clone, and a Redis on its default port; if that port is in use, one that the environment names."""
    try:
        make_server(port=6379)
    except DurasleepError:
        return Terminal(ROOT, DURASLEEP_REDIS_URL=make_server().url)
    return Terminal(ROOT)


def test_the_three_terminal_story(make_server: MakeServer) -> None:
    clone = clone_with_redis(make_server)
    with clone.running("worker", until="is ready"):
        first = clone.run("rpc", "sleep-workflow-1", "sleeping_workflow", "5")
        assert (first.code, first.out, first.err) == (0, "Slept for 5 seconds\n", "")
        again = clone.run("rpc", "sleep-workflow-1", "sleeping_workflow", "5")
        assert (again.code, again.out) == (0, "Slept for 5 seconds\n")


def test_a_result_stands_alone_on_stdout_text_raw_and_anything_else_as_json(
    here: Terminal, worker: subprocess.Popen[bytes]
) -> None:
    assert here.run("rpc", "g", "greet", "Ada", "2").out == "hello Ada\nhello Ada\n"
    assert json.loads(here.run("rpc", "r", "receipt", "5").out) == {"id": "r", "cents": 5}
    assert json.loads(here.run("rpc", "n", "noon", "2026-11-23").out) == base64.b64encode(b"2026-11-23").decode()
    found = json.loads(here.run("rpc", "g", "greet", "Ada", "--json").out)
    assert (found["id"], found["disposition"], found["state"]) == ("g", "finished", "resolved")
    assert (found["value"], found["error"]) == ("hello Ada\nhello Ada", None)


def test_exit_codes_say_how_it_went(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    failed = here.run("rpc", "f", "fail")
    assert (failed.code, failed.out) == (1, "")
    assert "LookupError: no such order" in failed.err
    waited = here.run("rpc", "s", "sleep", "600", "--timeout", "200ms")
    assert (waited.code, waited.out) == (3, "")
    assert "it goes on" in waited.err
    unreachable = here.run("rpc", "s", "sleep", "600", "--url", "redis://127.0.0.1:1")
    assert unreachable.code == 4
    assert len(lines(unreachable.err)) == 1
    assert "cannot be reached" in unreachable.err


def test_wrong_usage_is_one_sentence_and_exit_2(here: Terminal, quick: Quick) -> None:
    wrong = {
        ("rpc", "a~b", "greet"): "reserved",
        ("rpc", "", "greet"): "1 to 512 bytes",
        ("rpc", "x" * 513, "greet"): "1 to 512 bytes",
        ("rpc", "a\nb", "greet"): "control characters",
        ("rpc", os.fsdecode(b"\xff"), "greet"): "not valid Unicode",
        ("rpc", "a", "greet", os.fsdecode(b"\xff")): "argument 1 of greet",
        ("rpc", "a", "greet", "-5"): "comes after --",
        ("rpc", "a", "greet", "--timeout", "soon"): "not a duration",
        ("rpc", "a", "greet", "--target", "poll://all@x"): "poll://any@",
        ("rpc", "a"): "'FUNC'; see `durasleep rpc --help`",
        ("rpc", "a", "greet", "--nope"): "--nope",
        ("worker",): "no application is named",
        ("worker", "nowhere"): "there is no module 'nowhere'",
        ("worker", "shop.py"): "give the name of its module, such as shop",
        ("worker", "shop:Receipt"): "there is shop:app",
        ("worker", "shop", "--group", "{x}"): "group name",
        ("worker", "shop", "--concurrency", "0"): "--concurrency",
        ("worker", "shop", "--url", "ftp://x"): "Redis URL",
        ("get", "a", "--url", "redis://me:secret@host:x"): "redis://***@host:***",
        ("promise", "create", "t", "--timer"): "needs a timeout",
        ("nope",): "'nope'",
    }
    for args, says in wrong.items():
        done = quick(here, *args)
        assert (done.code, done.out) == (2, ""), args
        assert says in done.err, args
        assert len(lines(done.err)) == 1, done.err
    assert quick(here, "get", "a").code == 1  # nothing was written for any of them


def test_a_redis_that_is_there_is_not_to_be_started(here: Terminal, quick: Quick, make_server: MakeServer) -> None:
    server = make_server(persist=False)
    with redis.Redis.from_url(server.url) as client:
        client.hset(meta_key("durasleep"), mapping={"schema": "1", "partitions": "1"})
        client.zadd(Keyspace("durasleep", 0).workers, {"old-1/ab": time.time() * 1000})
        for command in (("get", "a"), ("ls",), ("fsck",), ("rpc", "a", "greet", "Ada")):
            done = quick(here, *command, "--url", server.url)
            assert done.code == 4
            assert done.err.endswith("when the workers of the previous version have left\n")


def test_a_redis_that_cannot_be_used_is_one_sentence_and_exit_4(
    here: Terminal, quick: Quick, make_server: MakeServer
) -> None:
    locked = make_server(persist=False)
    with redis.Redis.from_url(locked.url) as client:
        client.config_set("requirepass", "right")
    with (
        SpeaksOnly(b"+PONG\r\n") as puzzling,
        SpeaksOnly(b"HTTP/1.1 400 Bad Request\r\n") as website,
        SpeaksOnly(OLD_INFO) as old,
    ):
        refused = {
            "redis://127.0.0.1:1": "127.0.0.1:1 cannot be reached: Connection refused. Start one with `durasleep dev`",
            "redis://nobody.invalid": "nobody.invalid:6379 cannot be reached",
            "unix:///nowhere.sock": "unix:/nowhere.sock cannot be reached: No such file",
            locked.url: "refuses us: Authentication required",
            f"redis://:wrong@127.0.0.1:{locked.port}": "refuses us: ",
            website.url: "cannot be reached: Protocol",
            old.url: "this server speaks Redis 6.0; durasleep needs 6.2 or newer",
        }
        for url, says in refused.items():
            waits = "cannot be reached" in says  # a worker begins when that can be
            for command in (("get", "a"), ("rpc", "a", "greet", "Ada"), *([] if waits else [("worker", "shop")])):
                done = quick(here, *command, "--url", url)
                assert (done.code, done.out) == (4, ""), done.err
                assert says in done.err
                assert ("Start one" in done.err) is waits
                assert len(lines(done.err)) == 1, done.err
        assert quick(here, "get", "a", "--url", puzzling.url).code == 4
    assert quick(here, "get", "a", "--url", f"redis://:right@127.0.0.1:{locked.port}").code == 1


INFO = b"# Server\r\nredis_version:6.0.16\r\nredis_mode:standalone\r\n"
OLD_INFO = b"$%d\r\n%s\r\n" % (len(INFO), INFO)


class SpeaksOnly:
    """A server with one answer to every command, except the greeting of a client."""

    def __init__(self, answer: bytes) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while line := self.rfile.readline():
                    words = [self.rfile.readline() and self.rfile.readline().strip() for _ in range(int(line[1:]))]
                    is_greeting = words[0].upper() in (b"CLIENT", b"SELECT", b"HELLO")
                    self.wfile.write(b"+OK\r\n" if is_greeting else answer)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"redis://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_no_wait_prints_the_id_and_get_shows_what_it_waits_for(
    here: Terminal, quick: Quick, worker: subprocess.Popen[bytes]
) -> None:
    assert quick(here, "rpc", "s-1", "sleep", "600", "--no-wait").out == "s-1\n"
    wait_for(lambda: json.loads(quick(here, "get", "s-1", "--json").out)["status"] == "suspended", "the sleep")
    found = json.loads(quick(here, "get", "s-1", "--json").out)
    assert {"id", "state", "func", "group", "created_at_ms", "timeout_at_ms", "settled_at_ms"} <= found.keys()
    assert {"value", "error", "status", "waiting_on"} <= found.keys()
    assert (found["state"], found["func"], found["group"], found["value"]) == ("pending", "sleep", "workers", None)
    [timer] = found["waiting_on"]
    assert (timer["id"], timer["kind"], timer["name"]) == ("s-1~1", "timer", "nap")
    assert abs(timer["due_ms"] - found["created_at_ms"] - 600_000) < 60_000
    shown = quick(here, "get", "s-1").out
    assert "asleep" in shown
    assert "s-1~1" in shown
    assert json.loads(quick(here, "get", "s-1~1", "--json").out)["kind"] == "timer"
    assert quick(here, "get", "nobody").code == 1


def test_a_group_without_workers_is_named_while_it_waits(here: Terminal, quick: Quick) -> None:
    done = quick(here, "rpc", "lonely", "greet", "Ada", "--target", "gpu", "--timeout", "1s")
    assert done.code == 3
    assert "group 'gpu' has no worker alive" in done.err
    asked = quick(here, "ask", "lonely", "question", "--timeout", "1s")
    assert asked.code == 3
    assert "group 'gpu' has no worker alive" in asked.err


def test_who_forgets_the_target_is_told_which_group_has_workers(here: Terminal, quick: Quick) -> None:
    with here.running("worker", "shop", "--group", "gpu", until="is ready"):
        done = quick(here, "rpc", "lost", "greet", "Ada", "--timeout", "1s")
    assert done.code == 3
    assert "Group 'gpu' has workers: a call with --target gpu goes there" in done.err


def test_promises_are_settled_once_from_the_command_line(here: Terminal, quick: Quick) -> None:
    assert quick(here, "promise", "create", "p", "--timeout", "1h").out == "p\n"
    assert quick(here, "promise", "resolve", "p", "--value", '{"by": "Ada"}').out == "resolved\n"
    late = quick(here, "promise", "reject", "p", "--value", "too late", "--json")
    assert json.loads(late.out) == {"id": "p", "state": "resolved", "settled_by_this": False}
    assert json.loads(quick(here, "get", "p", "--json").out)["value"] == {"by": "Ada"}
    quick(here, "promise", "create", "q")
    assert quick(here, "promise", "cancel", "q").out == "canceled\n"
    assert quick(here, "promise", "resolve", "nobody").code == 1


def test_what_a_workflow_prints_is_seen_as_it_happens_in_a_pipe_too(here: Terminal, quick: Quick) -> None:
    with subprocess.Popen(
        [*COMMAND, "worker", "shop"],
        cwd=here.directory,
        env=here.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        quick(here, "rpc", "g", "greet", "Ada", "--no-wait")
        assert worker.stdout.readline() == "greeting Ada\n"
        worker.terminate()
        assert worker.stdout.read() == ""


def test_sigterm_ends_a_worker_in_order(here: Terminal, worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0


def test_an_application_that_names_its_redis_keeps_it_unless_told_otherwise(here: Terminal, quick: Quick) -> None:
    (here.directory / "own.py").write_text("from durasleep import Durasleep\napp = Durasleep('redis://127.0.0.1:1')\n")
    for port, args in ((1, ("worker", "own")), (2, ("worker", "own", "--url", "redis://127.0.0.1:2"))):
        with here.running(*args, until=f"127.0.0.1:{port} cannot be reached"):
            pass
    here.environment["DURASLEEP_REDIS_URL"] = "redis://127.0.0.1:3"
    with here.running("worker", "shop", until="127.0.0.1:3 cannot be reached"):
        pass


def test_what_halted_shows_the_difference_line_by_line(
    here: Terminal, quick: Quick, worker: subprocess.Popen[bytes]
) -> None:
    quick(here, "rpc", "c", "changing", "--no-wait")
    wait_for(lambda: '"suspended"' in quick(here, "get", "c", "--json").out, "the sleep")
    (here.directory / "changed").touch()
    quick(here, "promise", "resolve", "c~1")
    waited = quick(here, "rpc", "c", "changing", "--timeout", "1s")
    assert waited.code == 3
    assert waited.err.startswith("c is halted: ")
    assert "\nWhen the cause is fixed: durasleep resume c\n" in waited.err
    shown = quick(here, "get", "c").out
    assert "state     pending, halted\n" in shown
    assert re.search(r"^ +- 1 +timer +'nap'.*\n +\+ 1 +step +'noon'", shown, re.MULTILINE), shown
    assert json.loads(quick(here, "get", "c", "--json").out)["status"] == "halted"


@pytest.mark.parametrize(
    "setting_up",
    [
        "logging.basicConfig(level=logging.INFO, format='MINE %(message)s')",
        (
            "logging.config.dictConfig({'version': 1, 'formatters': {'mine': {'format': 'MINE %(message)s'}}, "
            "'handlers': {'all': {'class': 'logging.StreamHandler', 'formatter': 'mine'}}, "
            "'root': {'handlers': ['all']}})"
        ),
        (
            "logging.getLogger('durasleep').addHandler(mine := logging.StreamHandler()), "
            "mine.setFormatter(logging.Formatter('MINE %(message)s'))"
        ),
    ],
)
@pytest.mark.parametrize("when", ["at import", "in its lifespan"])
def test_an_application_that_sets_up_its_log_has_every_line_once(
    here: Terminal, tmp_path: Path, setting_up: str, when: str, quick: Quick
) -> None:
    late = f"@app.lifespan\nasync def resources():\n    {setting_up}\n    yield\n"
    text = APP + "\nimport logging.config\n" + (late if when == "in its lifespan" else setting_up)
    (here.directory / "shop.py").write_text(text)
    with here.running("worker", "shop", until="is ready", keep=tmp_path / "log"):
        assert quick(here, "rpc", "f", "fail").code == 1
    said = (tmp_path / "log").read_text().splitlines()
    assert len([line for line in said if "this worker uses" in line]) == 1, said
    for what in ("is ready", "f rejected after", "has left"):
        assert [line.startswith("MINE ") for line in said if what in line] == [True], said


def test_a_dev_server_keeps_sleepers_and_is_found_by_other_commands(tmp_path: Path, quick: Quick) -> None:
    (tmp_path / "shop.py").write_text(APP)
    terminal = Terminal(tmp_path)
    with terminal.running("dev", "shop", until="is ready") as dev:
        # Longer than a command takes to find it asleep, on any machine.
        assert quick(terminal, "rpc", "s-1", "sleep", "8", "--no-wait").code == 0
        wait_for(lambda: '"suspended"' in quick(terminal, "get", "s-1", "--json").out, "the sleep")
        second = terminal.run("dev", "shop")
        assert second.code != 0
        assert len(lines(second.err)) == 1
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(20) == 0
    assert (tmp_path / ".durasleep").is_dir()
    with terminal.running("dev", "shop", until="is ready"):
        assert quick(terminal, "rpc", "s-1", "sleep", "8").out == "slept 8.0\n"


def test_who_waits_while_a_dev_server_is_restarted_goes_on(tmp_path: Path, quick: Quick) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "below").mkdir()
    terminal, below = Terminal(tmp_path), Terminal(tmp_path / "below")
    program = "import asyncio, shop; print(asyncio.run(shop.app.get('s').result()))"
    with terminal.running("dev", "shop", until="is ready") as dev:
        assert quick(below, "rpc", "s", "sleep", "600", "--no-wait").code == 0
        waiting = [
            subprocess.Popen(command, cwd=directory, env=below.environment | paths, stdout=subprocess.PIPE, text=True)
            for command, directory, paths in (
                ([*COMMAND, "rpc", "s", "sleep", "600"], below.directory, {}),
                ([sys.executable, "-c", program], below.directory, {"PYTHONPATH": f"{ROOT}:{tmp_path}"}),
            )
        ]
        listener: Any = redis.Redis.from_url(json.loads((tmp_path / ".durasleep" / "server.json").read_text())["url"])
        with listener as client:
            wait_for(lambda: len(client.execute_command("CLIENT", "LIST").split(b"cmd=xread ")) == 4, "all to listen")
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(20) == 0
    with terminal.running("dev", "shop", until="is ready"):
        assert quick(below, "wake", "s").code == 0
        assert [process.communicate(timeout=PATIENCE_S)[0] for process in waiting] == ["slept 600.0\n"] * 2


def test_a_dev_server_without_an_application_runs_nothing(tmp_path: Path, quick: Quick) -> None:
    terminal = Terminal(tmp_path)
    with terminal.running("dev", until="there is no worker") as dev:
        waited = quick(terminal, "rpc", "a", "greet", "--timeout", "500ms")
        assert waited.code == 3
        assert "group 'workers' has no worker alive" in waited.err
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(20) == 0


def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with begin_demo(Terminal(tmp_path)) as demo:
        out, err = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, err) == (0, ""), out
    steps = ["is up at", "starts", "sleeps until", "kill -9", "starts", "resolved: 'Slept for 5 seconds'"]
    assert re.search(".*".join(steps), out, re.DOTALL), out
    assert re.search(r"\d+ ms after its timer was due", out), out
    assert_nothing_left(demo, out)
    assert not list(tmp_path.iterdir())


def test_a_demo_told_to_stop_takes_its_workers_along(tmp_path: Path) -> None:
    with begin_demo(Terminal(tmp_path)) as demo:
        assert demo.stdout is not None
        seen: list[str] = []
        while not seen or "sleeps until" not in seen[-1]:
            seen.append(demo.stdout.readline())
            assert seen[-1], seen
        demo.send_signal(signal.SIGTERM)
        out, err = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, err) == (143, ""), out
    assert_nothing_left(demo, "".join(seen))


def begin_demo(terminal: Terminal) -> subprocess.Popen[str]:
    """The demo, in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, "demo"],
        cwd=terminal.directory,
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def assert_nothing_left(demo: subprocess.Popen[str], out: str) -> None:
    """Whether no process of its group runs, and nothing listens at the address of its server."""
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)
    port = re.search(r"redis://127\.0\.0\.1:(\d+)", out)
    assert port is not None, out
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])), timeout=5)


def test_a_reader_that_has_enough_is_no_error(here: Terminal, worker: subprocess.Popen[bytes], quick: Quick) -> None:
    quick(here, "rpc", "big", "greet", "x" * 1000, "500", "--no-wait")
    done = subprocess.run(
        f"{sys.executable} -m durasleep rpc big greet 1 2>&1 | head -c 5; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=here.directory,
        env=here.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "hello0\n"


def test_writes_that_no_replica_receives_do_not_count(here: Terminal, quick: Quick) -> None:
    with here.running("worker", "shop", "--min-replicas", "1", until="received by 0 replicas of 1"):
        said = quick(here, "rpc", "a", "noon", '"2026-11-24"', "--min-replicas", "1")
    assert said.code == 4
    assert "written, but received by 0 replicas of 1" in said.err
    assert quick(here, "get", "a").code == 0  # it is there all the same


def test_passwords_are_shown_nowhere(tmp_path: Path, make_server: MakeServer, quick: Quick) -> None:
    server, password = make_server(), "hush-hush"
    (tmp_path / "shop.py").write_text(APP)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", password)
        here = Terminal(tmp_path, DURASLEEP_REDIS_URL=server.url.replace("redis://", f"redis://:{password}@"))
        said: list[str] = []
        with here.running("worker", "shop", "--verbose", "--name", "w1", until="is ready", keep=tmp_path / "log"):
            for command in (
                ("rpc", "a", "noon", '"2026-11-24"', "--json"),
                ("get", "a"),
                ("get", "a", "--json"),
                ("ls", "--status", "done"),
                ("doctor",),
                ("export", "a"),
            ):
                done = quick(here, *command)
                said += [done.out, done.err]
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.config_set("requirepass", f"not {password}")
            said += [quick(here, "get", "a").err]
            wait_for(lambda: "refuses us" in (tmp_path / "log").read_text(), "the worker to say that it is refused")
            client.config_set("requirepass", password)
        said.append((tmp_path / "log").read_text())
        client.config_set("requirepass", "")
    assert all(said[::2])
    assert not [text for text in said if password in text]
