"""Finds calls that differ from run to run: by their position and, in debug mode, by replaying each journal twice."""

from __future__ import annotations

import builtins
import logging
import os
import random
import secrets
import socket
import subprocess
import sysconfig
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

from durasleep.runtime.activation import Activation
from durasleep.runtime.definition import TaskDefinition, definition_of
from durasleep.runtime.journal import Asked, Forgotten, StepCall, sort_key
from durasleep.runtime.outcome import Halted, Progress, Rejected, Resolved

_log = logging.getLogger("durasleep.runtime")

_NOW, _CHANCE, _SLEEP = "ctx.now()", "ctx.random()", "await ctx.sleep(...)"
_UUID, _STEP = "ctx.uuid()", "a step, await ctx.run(...)"
_WHY = {
    _NOW: "which gives another answer when it is replayed",
    _CHANCE: "which gives another answer when it is replayed",
    _UUID: "which gives another answer when it is replayed",
    _SLEEP: "which blocks its worker",
    _STEP: "which every replay does again",
}

_BUILT_IN: dict[Callable[..., Any], tuple[str, str]] = {
    time.time: ("time.time", _NOW),
    time.time_ns: ("time.time_ns", _NOW),
    time.monotonic: ("time.monotonic", _NOW),
    time.monotonic_ns: ("time.monotonic_ns", _NOW),
    time.perf_counter: ("time.perf_counter", _NOW),
    time.perf_counter_ns: ("time.perf_counter_ns", _NOW),
    datetime.now: ("datetime.now", _NOW),
    datetime.utcnow: ("datetime.utcnow", _NOW),  # pyright: ignore[reportDeprecated] - it is looked for
    datetime.today: ("datetime.today", _NOW),
    date.today: ("date.today", _NOW),
    random.random: ("random.random", _CHANCE),
    random.getrandbits: ("random.getrandbits", _CHANCE),
    os.urandom: ("os.urandom", _CHANCE),
    time.sleep: ("time.sleep", _SLEEP),
    builtins.open: ("open", _STEP),
    os.system: ("os.system", _STEP),  # pyright: ignore[reportDeprecated] - likewise
}
_IN_PYTHON: dict[CodeType, tuple[str, str]] = {
    uuid.uuid1.__code__: ("uuid.uuid1", _UUID),
    uuid.uuid4.__code__: ("uuid.uuid4", _UUID),
    secrets.token_bytes.__code__: ("secrets.token_bytes", _CHANCE),
    secrets.token_hex.__code__: ("secrets.token_hex", _CHANCE),
    secrets.token_urlsafe.__code__: ("secrets.token_urlsafe", _CHANCE),
    cast("Any", socket.socket.__init__).__code__: ("socket.socket", _STEP),
    subprocess.Popen.__init__.__code__: ("subprocess.Popen", _STEP),
    subprocess.run.__code__: ("subprocess.run", _STEP),
    subprocess.check_output.__code__: ("subprocess.check_output", _STEP),
    threading.Thread.start.__code__: ("threading.Thread.start", _STEP),
    **{
        method.__code__: (f"Path.{method.__name__}", _STEP)
        for method in (Path.open, Path.read_text, Path.read_bytes, Path.write_text, Path.write_bytes)
    },
}
_SHARED_RANDOM: Any = cast("Any", random.random).__self__
"""The generator behind the functions of ``random``; one that the workflow has seeded itself can be replayed."""

for _name in random.__all__:
    _method: Any = getattr(random, _name)
    if getattr(_method, "__self__", None) is _SHARED_RANDOM and hasattr(_method, "__code__"):
        _IN_PYTHON[_method.__code__] = (f"random.{_name}", _CHANCE)

_NOT_THEIRS = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(random.__file__).parent),  # the standard library may lie in a zip file
        str(Path(__file__).parents[1]),
        "<frozen",
    }
)
_said: set[tuple[str, int, str]] = set()
_FORGOTTEN = "it may be lost when the workflow ends; await it, now or later, or cancel it with `.cancel()`"
_reminded: Counter[str] = Counter()
_REMINDED_MAX = 10  # times for each function: most forgotten calls show early, and each further run costs time


def watch(frame: FrameType, event: str, arg: Any) -> None:
    """A profile function that logs calls which differ from run to run, or block; each position once.

    It looks only at calls in the user's own code, not at those inside libraries.
    """
    if event == "c_call":
        found, caller = _BUILT_IN.get(arg) if arg.__hash__ else None, frame
    elif event == "call":
        found, caller = _IN_PYTHON.get(frame.f_code) or _as_task(frame), frame.f_back
        if found and found[1] is _CHANCE and frame.f_locals.get("self", _SHARED_RANDOM) is not _SHARED_RANDOM:
            return
    else:
        return
    if found is None or caller is None or _file_of(caller).startswith(_NOT_THEIRS):
        return
    name, instead = found
    call_site = (_file_of(caller), caller.f_lineno, name)
    if call_site not in _said:
        _said.add(call_site)
        _log.warning(
            "%s:%d in %s: a workflow calls %s(), %s: use %s",
            call_site[0],
            call_site[1],
            caller.f_code.co_qualname,
            name,
            _WHY[instead],
            instead,
        )


def _as_task(frame: FrameType) -> tuple[str, str] | None:
    """What to say of a task that is called as plain Python; None for any other function, and for one in a function."""
    fn = frame.f_globals.get(frame.f_code.co_name)
    is_task = isinstance(definition_of(fn), TaskDefinition) and getattr(fn, "__code__", None) is frame.f_code
    return (frame.f_code.co_name, _STEP) if is_task else None


def _file_of(frame: FrameType) -> str:
    """The file of its code; of code that was made at run time, such as the methods of dataclasses, its module's."""
    name = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", name)) if name.startswith("<string") else name


def reminded(activation: Activation, progress: Progress, *, halt: bool) -> Progress:
    """Log the durable calls that are not awaited, each position once; with ``halt``, halt the execution with this
    message.

    Another run over the same journal finds their positions: to note the position of each call would slow every call.
    """
    function = activation.function
    if not halt:
        _reminded[function] += 1
        if _reminded[function] > _REMINDED_MAX:
            return progress
    said: list[str] = []
    for one, call_site in _call_sites(activation, progress.forgotten):
        line = f"{call_site}: a workflow makes a durable call without `await`, {one.what}: {_FORGOTTEN}"
        if halt or (call_site, 0, one.what) not in _said:
            _said.add((call_site, 0, one.what))
            said.append(line)
    if halt:
        reason = "\n".join([f"{activation.id} does not await what it has begun:", *said])
        return Progress((), (), progress.stop_steps, False, Halted(reason))
    for line in said:
        _log.warning("%s", line)
    return progress


def _call_sites(activation: Activation, forgotten: Sequence[Forgotten]) -> list[tuple[Forgotten, str]]:
    asked = activation.asked
    if not asked and not all(one.call_site for one in forgotten):
        twin, _ = activation.run_again()
        asked = twin.asked
        twin.close()
    found = [(one, asked.get(one.number)) for one in forgotten]
    return [(one, one.call_site or ("?" if call is None else call.call_site)) for one, call in found]


def checked(activation: Activation, progress: Progress) -> Progress:
    """The progress itself; or a halt with the difference, if another run over the same journal differs."""
    if isinstance(progress.outcome, Halted):
        return progress
    twin, again = activation.run_again()
    try:
        found = _difference(activation, twin, progress, again)
    finally:
        twin.close()
    if found is None:
        return progress
    reason = "\n".join(
        [
            f"{activation.id} is not deterministic: two replays of one journal differ (- first, + second):",
            *found,
            "Take values that differ from run to run from ctx (now, random, uuid) or from a step.",
        ]
    )
    return Progress((), (), progress.stop_steps, False, Halted(reason))


def _difference(first: Activation, again: Activation, progress: Progress, repeated: Progress) -> list[str] | None:
    asked, asked_again = first.asked, again.asked
    for number in sorted(asked.keys() | asked_again.keys(), key=sort_key):
        one, other = asked.get(number), asked_again.get(number)
        if one is None or other is None or not _same(first, one, other):
            return [f"  - {number:<6} {_shown(one)}", f"  + {number:<6} {_shown(other)}"]
    outcome, outcome_again = _plain(first, progress), _plain(first, repeated)
    if outcome != outcome_again:
        return [f"  - outcome {outcome}", f"  + outcome {outcome_again}"]
    return None


def _same(activation: Activation, one: Asked, other: Asked) -> bool:
    if (one.kind, one.name) != (other.kind, other.name):
        return False
    if one.wanted is None or other.wanted is None:  # the journal has it
        return True
    if isinstance(one.wanted, StepCall) and isinstance(other.wanted, StepCall):
        return _arguments(activation, one.wanted) == _arguments(activation, other.wanted)
    return one.wanted == other.wanted


def _arguments(activation: Activation, call: StepCall) -> bytes:
    try:
        return activation.codec.encode_args(call.args, call.kwargs, call.name)
    except Exception:  # noqa: BLE001 - a step takes any arguments; those that cannot be written cannot be compared
        return b""


def _shown(asked: Asked | None) -> str:
    if asked is None:
        return "nothing"
    match asked.wanted:
        case StepCall(name=name, args=args, kwargs=kwargs):
            return f"step {name!r} {args!r} {kwargs!r}"
        case None:
            return f"{asked.kind} {asked.name!r}"
        case wanted:
            return repr(wanted)


def _plain(activation: Activation, progress: Progress) -> str:
    match progress.outcome:
        case Rejected(text=text):
            return f"rejected: {text}"
        case Resolved(payload):
            return f"resolved: {activation.codec.decode(payload)!r}"
        case other:
            return "not yet" if other is None else repr(other)
