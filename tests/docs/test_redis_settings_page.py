"""docs/operate/redis-settings.md: the server takes its file, and `durasleep doctor` says what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from durasleep.sync import Client
from harness.servers import MakeServer
from tests.cli.terminal import ROOT
from tests.docs.pages import Block, parts

PAGE = (ROOT / "docs" / "operate" / "redis-settings.md").read_text()
FILES = [one.source for one in parts(PAGE) if isinstance(one, Block) and one.said("tested by")]
TABLE = PAGE.partition("## What `durasleep doctor` says")[2]
LINES = [line.strip("|").split("|") for line in TABLE.splitlines() if line.startswith("|")]
ROWS = [tuple(cell.strip() for cell in cells) for cells in LINES[2:]]


@contextmanager
def server_of_the_page(make_server: MakeServer, directory: Path) -> Generator[tuple[Any, Client]]:
    """A server that has read the page's file."""
    path = directory / "redis.conf"
    path.write_text(FILES[0])
    server = make_server(extra_args=("--include", str(path)))
    with redis.Redis.from_url(server.url) as admin, Client(server.url) as client:
        yield admin, client


def said_by(client: Client) -> list[tuple[str, str]]:
    return [(str(one.level), one.text) for one in client.diagnose()]


def test_the_server_takes_the_file_and_the_doctor_is_content(make_server: MakeServer, tmp_path: Path) -> None:
    with server_of_the_page(make_server, tmp_path) as (admin, client):
        for line in FILES[0].splitlines() + FILES[1].splitlines():
            if line[:1].islower():
                name, *words = shlex.split(line)
                if line in FILES[0]:
                    assert _as_bytes(" ".join(words)) in _as_bytes(admin.config_get(name)[name]), line
                else:
                    assert name in admin.config_get(name)
        assert {level for level, _ in said_by(client)} == {"good"}


def _as_bytes(value: str) -> str:
    sizes = {"mb": 20, "gb": 30}
    return str(int(value[:-2]) << sizes[value[-2:]]) if value[-2:] in sizes else value


def test_the_doctor_says_of_each_setting_what_the_page_says(make_server: MakeServer, tmp_path: Path) -> None:
    with server_of_the_page(make_server, tmp_path) as (admin, client):
        assert len(ROWS) >= 11
        for setting, level, text in ROWS:
            settings = re.findall(r"`([\w-]+) ([^`]*)`", setting.replace('""', " "))
            changed = {name: value.strip() for name, value in settings}
            kept = {name: admin.config_get(name)[name] for name in changed}
            for name, value in changed.items():
                admin.config_set(name, value)
            said = said_by(client)
            for name, value in reversed(kept.items()):
                admin.config_set(name, value)
            assert _worst(said) == level, f"{setting}: {said}"
            if quoted := re.fullmatch(r"`(.*)`", text):
                assert any(one == level and quoted[1] in found for one, found in said), f"{setting}: {said}"


def _worst(said: list[tuple[str, str]]) -> str:
    return max((level for level, _ in said), key=("good", "warning", "danger").index)


@pytest.mark.parametrize("number", range(2))
def test_each_line_of_the_files_has_its_reason(number: int) -> None:
    for line in FILES[number].splitlines():
        name = line.split(" ")[0]
        if name[:1].islower() and not name.startswith(("auto-aof", "tcp-backlog", "slowlog")):
            assert f"`{name}" in PAGE.replace(FILES[number], "")
