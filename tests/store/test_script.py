"""The loader: names are bound once, by name; and what the scripts may use of Redis and of Lua."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest

from durasleep.protocol import script, server, timers
from durasleep.protocol.keys import KEY_NAMES, OWN_KEY_NAMES
from durasleep.protocol.script import NAMES, load
from tests.store.driver import Driver

READS = {
    "COMMAND",
    "EXISTS",
    "GET",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSCAN",
    "PTTL",
    "SCARD",
    "SISMEMBER",
    "SRANDMEMBER",
    "SSCAN",
    "TIME",
    "TYPE",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREVRANGE",
    "ZCARD",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZSCAN",
    "ZSCORE",
}
WRITES = {
    *("DEL", "HDEL", "HSET", "PERSIST", "PEXPIRE", "RENAME", "SADD", "SET", "SREM", "UNLINK"),
    *("XACK", "XADD", "XCLAIM", "XDEL", "XGROUP", "XREADGROUP", "XTRIM", "ZADD", "ZREM"),
}
"""All of Redis 6.2 that the scripts use; each is older than it, with the options they give."""


def text_of(name: str) -> str:
    """A script as the server runs it, without comments."""
    return re.sub(r"--.*", "", load(name).source.decode())


def rewrite(monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    """Every file of the next script to be loaded reads changed."""
    files = resources.files

    class Folder:
        def __init__(self, path: Any) -> None:
            self.path = path

        def joinpath(self, *names: str) -> Folder:
            return Folder(self.path.joinpath(*names))

        def read_text(self, encoding: str) -> str:
            return change(self.path.read_text(encoding=encoding))

    def changed(package: str) -> Folder:
        return Folder(files(package))

    monkeypatch.setattr(resources, "files", changed)


def test_a_forgotten_keyword_is_a_type_error_that_names_it() -> None:
    fire = load("fire")
    with pytest.raises(TypeError, match=r"fire.lua needs 'limit'"):
        fire.shared_args()
    with pytest.raises(TypeError, match=r"an item of settle.lua needs 'payload'"):
        load("settle").item(id="a", state="r")


def test_an_unknown_keyword_is_a_type_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"fire.lua does not know \['most'\]"):
        load("fire").shared_args(limit="1", latest="0", resend_ms="1", schedules_max="1", most="2")


def test_an_unknown_field_or_include_is_found_when_a_script_is_assembled(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(monkeypatch, lambda text: text + "\nlocal x = F.sate\n")
    with pytest.raises(KeyError, match="sate"):
        load.__wrapped__("fire")
    rewrite(monkeypatch, lambda text: text + "\n-- @include nowhere\n")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load.__wrapped__("fire")


def test_a_script_with_keys_of_its_own_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(monkeypatch, lambda text: text.replace("timers, wake", "wake, timers"))
    with pytest.raises(TypeError, match="KEYS"):
        load.__wrapped__("fire")


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_assembled_whole(name: str) -> None:
    text = text_of(name)
    assert f"local {', '.join(OWN_KEY_NAMES.get(name, KEY_NAMES))} = unpack(KEYS)" in " ".join(text.split())
    assert not re.search(r"\b(F|S|W|STATE|PLACE|KIND|LIMIT)\.\w", text)
    assert load(name).sha == hashlib.sha1(load(name).source, usedforsecurity=False).hexdigest().encode()
    functions = re.findall(r"^local function (\w+)", text, re.MULTILINE)
    assert len(functions) == len(set(functions)), "a helper is joined in twice"


@pytest.mark.parametrize("name", NAMES)
def test_no_script_uses_a_command_or_library_that_some_server_lacks(name: str) -> None:
    text = text_of(name)
    called = set(re.findall(r"(?:redis\.call\(|redis\.call, )'(\w+)'", text))
    asked = set(re.findall(r"redis\.pcall\(\s*'(\w+)'", text))
    chunked = set(re.findall(r"in_chunks\(\w+,\s*'(\w+)'", text))
    assert called | chunked <= READS | WRITES
    assert asked <= READS, "redis.pcall would hide that a write failed"
    assert len(re.findall(r"redis\.call", text)) == len(re.findall(r"redis\.call(?:\(|,)\s*(?:'|command|unpack)", text))
    others = "" if name.startswith("resonate_") else "|cjson"  # their requests and answers are JSON
    assert not re.search(rf"\b(cmsgpack|struct|bit{others}|loadstring|setmetatable)\b|#!lua", text)
    assert text.count("'TIME'") == ("local now =" in text), "TIME moves inside a script on Redis 6.2 and 7.0"


def test_an_item_says_how_many_values_it_has_so_that_more_may_follow() -> None:
    item = load("settle").item(b"\xff", b"7", id="a~1", state="r", payload=b"\x00")
    assert item == ["5", "a~1", "r", b"\x00", b"\xff", b"7"]


def test_the_assembled_scripts_can_be_written_for_linters(tmp_path: Any) -> None:
    script.write_assembled(tmp_path / "scripts")
    written = [f"{name}{kind}.lua" for name in NAMES for kind in ("", "_movable")]
    assert sorted(path.name for path in (tmp_path / "scripts").iterdir()) == sorted(written)


@pytest.mark.parametrize("movable_clock", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_every_server_takes_every_script(driver: Driver, name: str, movable_clock: bool) -> None:
    lua = load(name, movable_clock)
    assert await driver.redis.script_load(lua.source.decode()) in (lua.sha, lua.sha.decode())


async def test_a_movable_clock_goes_by_its_key_and_the_usual_one_does_not(driver: Driver) -> None:
    await driver.redis.set(driver.keys.clock, 86_400_250)
    usual = await driver.fire()
    moved = await driver.store.call(timers.fire(replace(driver.keys, movable_clock=True), limit=1))
    assert 86_400_000_000 < moved.server_us - usual.server_us < 86_460_000_000
    await driver.redis.set(driver.keys.clock, "=86400250")
    standing = replace(driver.keys, movable_clock=True)
    stands = [await driver.store.call(timers.fire(standing, limit=1)) for _ in range(2)]
    assert [one.server_us for one in stands] == [86_400_250_000] * 2
    assert await driver.store.run(server.now_ms(standing)) == 86_400_250
    await driver.redis.delete(driver.keys.clock)
