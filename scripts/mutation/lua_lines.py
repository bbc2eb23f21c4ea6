"""Which tests come by which lines of Lua: they run once on fakeredis, whose Lua can be asked line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from fakeredis.commands_mixins import scripting_mixin

from durasleep.protocol import script

Line = tuple[str, int]
_MARK = "--@"
_HOOK = """
local hit = {}
debug.sethook(function(_, line) hit[line] = true end, 'l')
return function()
  local lines = {}
  for line in pairs(hit) do
    lines[#lines + 1] = line
  end
  hit = {} return table.concat(lines, ' ') -- in one line, which is not hit itself then
end
"""


class Recorder:
    """From its making on every script of this process that runs on fakeredis is noted, until it is asked."""

    def __init__(self) -> None:
        self._lines = set[Line]()
        self._lines = set[Line]()
        read, lua = script._read, cast("Any", scripting_mixin.LUA_MODULE)
        script._read = lambda name: _marked(name, read(name))
        script.load.cache_clear()
        lua.LuaRuntime = _noting(lua.LuaRuntime, self._lines)

    def take(self) -> list[Line]:
        """Those since it was asked last."""
        taken = sorted(self._lines)
        self._lines.clear()
        return taken


def _noting(runtime: Any, lines: set[Line]) -> Any:
    """A class as this one, which adds to ``lines`` what its code comes by."""

    class Noting(runtime):
        def __init__(self, **_: object) -> None:
            super().__init__()  # lupa has taken the options before
            self._take = super().execute(_HOOK)

        def execute(self, code: bytes | str) -> object:
            try:
                return cast("object", super().execute(code))
            finally:
                passed = [int(number) for number in cast("bytes", self._take()).split()]
                if isinstance(code, bytes):  # text is of fakeredis itself
                    marks = _marks(code)
                    lines.update([marks[number] for number in passed if number in marks])

    return Noting


def _marked(name: str, text: str) -> str:
    """Each line says at its end which it is; not where `script` reads on behind it."""
    lines = [
        line if line.endswith(" =") or "-- @include" in line else f"{line}{_MARK}{name}:{number}"
        for number, line in enumerate(text.splitlines(), 1)
    ]
    return "\n".join([*lines, ""])


@cache
def _marks(code: bytes) -> Mapping[int, Line]:
    found: dict[int, Line] = {}
    for number, line in enumerate(code.decode().splitlines(), 1):
        _, mark, said = line.rpartition(_MARK)
        if mark:
            name, _, at = said.rpartition(":")
            found[number] = name, int(at)
    return found


class Passing:
    """What recorders have noted, by test."""

    def __init__(self, of_test: Mapping[str, Sequence[Line]]) -> None:
        self.counts = {test: len(lines) for test, lines in of_test.items()}
        self._of_line: dict[Line, list[str]] = {}
        for test, lines in of_test.items():
            for name, line in lines:
                self._of_line.setdefault((name, line), []).append(test)

    def tests(self, name: str, line: int) -> list[str]:
        """Those that come by this line, or where that is never said of it, by the nearest one above."""
        for at in range(line, 0, -1):
            if found := self._of_line.get((name, at)):
                return list(found)
        return []
