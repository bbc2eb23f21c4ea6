"""Calls with options, ids that durasleep chooses, and calls that are refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Durasleep, OtherFunction, UsageError
from durasleep.errors import InvalidDuration, InvalidId
from harness.servers import Server
from tests.client.async_side import Client, NewClient, eventually, store_of
from tests.client.functions import Serving, odd, self_named
from tests.service.functions import double, sleeping_workflow, waiting

HOUR_MS = 3_600_000
FOR_EVER = pytest.mark.leaves_keys("what is kept for ever")


def is_about(left_ms: int, kept_ms: int) -> bool:
    return kept_ms - 60_000 < left_ms <= kept_ms + 1  # of two clocks, each rounded down to milliseconds


async def test_options_stand_apart_from_arguments_of_the_same_names(client: Client, serving: Serving) -> None:
    with serving():
        options = client.options(target="poll://any@workers", timeout=timedelta(hours=1), retention="30d")
        handle = await options.rpc("a", odd, target="a", timeout=1, delay=2, id="b", fn="c")
        assert await handle.result(30) == "a 1 2 b c"
        described = await client.describe("a")
        assert described.timeout_at_ms
        assert is_about(described.timeout_at_ms - described.created_at_ms, HOUR_MS)
        assert await (await options.start(self_named, self="a", many=1, retention="b")).result(30) == "a 1 b"
        assert await (await client.start(odd, target="a", timeout=1)).result(30) == "a 1 0"
        handles = await options.rpc_many(odd, [("b", "a", 1), ("c", "a", 2)])
        assert await client.gather(handles) == ["a 1 0", "a 2 0"]


@pytest.mark.parametrize(("delay", "timeout"), [(1, 0.5), (1, 1), ("1h", timedelta(minutes=59)), (0.001, 0)])
async def test_a_timeout_that_passes_before_the_delayed_start_is_refused(
    client: Client, delay: Any, timeout: Any
) -> None:
    """Both count from the call: it would end before it begins."""
    with pytest.raises(UsageError, match="timeout counts from the call"):
        client.options(delay=delay, timeout=timeout)
    with pytest.raises(UsageError, match="timeout counts from the call"):
        await client.rpc("a", double, 1, delay=delay, timeout=timeout)
    with pytest.raises(UsageError, match="timeout counts from the call"):
        await client.rpc_many(double, [("a", 1)], delay=delay, timeout=timeout)
    assert await client.search(status=("queued", "delayed", "done")) == []


async def test_no_delay_goes_with_any_timeout(client: Client) -> None:
    for delay in (0, datetime.now(UTC) - timedelta(hours=1)):
        client.options(delay=delay, timeout=0)


async def test_a_delay_among_the_options_is_one(client: Client) -> None:
    handle = await client.options(delay="1h", target="others").start(odd, "a", 1)
    described = await client.describe(handle.id)
    assert (described.status, described.group) == ("delayed", "others")
    due_ms = described.waiting_on[0].due_ms
    assert due_ms is not None
    assert is_about(due_ms - described.created_at_ms, HOUR_MS)
    await handle.cancel(force=True)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "unknown": ({"urgency": 1}, TypeError),
    "a target that is none": ({"target": "poll://all@x"}, InvalidId),
    "a target of another type": ({"target": 5}, InvalidId),
    "a negative timeout": ({"timeout": -1}, InvalidDuration),
    "text without a unit": ({"timeout": "5"}, InvalidDuration),
    "a timeout of another type": ({"timeout": [5]}, InvalidDuration),
    "a delay that is no time": ({"delay": "soon"}, InvalidDuration),
    "a retention that is no time": ({"retention": "for ever"}, InvalidDuration),
    "a retention of another type": ({"retention": True}, InvalidDuration),
    "replicas in words": ({"min_replicas": "one"}, UsageError),
    "a word for yes": ({"fsync": "yes"}, UsageError),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
async def test_options_that_cannot_be_used_are_refused_where_they_are_given(client: Client, what: str) -> None:
    options, error = BAD_OPTIONS[what]
    with pytest.raises(error, match=next(iter(options))):
        client.options(**options)


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [("countdown", "delay"), ("expires", "timeout"), ("queue", "target"), ("job_id", "id"), ("urgency", "priority")],
)
async def test_an_option_of_another_system_is_refused_with_its_name_here(
    client: Client, elsewhere: str, here: str
) -> None:
    options: dict[str, Any] = {elsewhere: 1}
    with pytest.raises(TypeError, match=rf"no '{elsewhere}': .*\b{here}\b"):
        client.options(**options)


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [("max_retries", "retry="), ("queue", "target="), ("ignore_result", "retention="), ("rate_limit", "limit=")],
)
def test_what_decorators_of_other_systems_take_is_refused_with_what_to_say_here(elsewhere: str, here: str) -> None:
    options: Any = {elsewhere: 1}
    urgent: Any = {"urgency": 1}
    for decorator, name in ((Durasleep().task, "task"), (Durasleep().workflow, "workflow")):
        with pytest.raises(TypeError, match=rf"@app.{name} has no '{elsewhere}': .*\b{here}"):
            decorator(**options)
    with pytest.raises(TypeError, match=r"@app\.task has no 'urgency'$"):
        Durasleep().task(**urgent)


async def test_a_call_without_its_id_says_where_the_id_stands(client: Client) -> None:
    with pytest.raises(InvalidId, match=r"start\(double, \.\.\.\), which makes an id"):
        await client.rpc(double, 2)  # pyright: ignore[reportCallIssue, reportArgumentType] - what a newcomer writes


async def test_ids_of_ours_are_new_and_sort_as_they_were_made(client: Client, serving: Serving) -> None:
    handles = [await client.start(double, n) for n in range(200)]
    ids = [str(handle.id) for handle in handles]
    assert sorted(set(ids)) == ids
    assert {id[14] for id in ids} == {"7"}  # the version of the UUID
    with serving():
        assert await client.gather(handles) == [2 * n for n in range(200)]


# -- calls that are refused

Call = Callable[[Client, Any, tuple[Any, ...], dict[str, Any]], Any]

VERBS: dict[str, Call] = {
    "rpc": lambda client, fn, args, kwargs: client.rpc("x", fn, *args, **kwargs),
    "options": lambda client, fn, args, kwargs: client.options(timeout=5).rpc("x", fn, *args, **kwargs),
    "start": lambda client, fn, args, kwargs: client.start(fn, *args, **kwargs),
    "schedule": lambda client, fn, args, kwargs: client.schedule("x", "0 0 1 1 *", fn, *args, **kwargs),
    "options of a schedule": lambda client, fn, args, kwargs: client.options(retention="1h").schedule(
        "x", "0 0 1 1 *", fn, *args, **kwargs
    ),
}
MISFITS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "missing": (double, (), {}, "number"),
    "misspelt": (double, (), {"numbers": 1}, "numbers"),
    "misspelt beside it": (double, (1,), {"numbers": 1}, "numbers"),
    "surplus": (double, (1, 2), {}, "double"),
    "twice": (double, (1,), {"number": 1}, "number"),
    "of another type": (double, ("many",), {}, "number"),
    "of another type by name": (double, (), {"number": [1]}, "number"),
    "missing in a workflow": (sleeping_workflow, (), {}, "secs"),
    "surplus in a workflow": (sleeping_workflow, (1, 2), {}, "sleeping_workflow"),
    "of another type in a workflow": (waiting, ("soon",), {}, "secs"),
    "the context": (sleeping_workflow, (), {"ctx": None, "secs": 1}, "ctx"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_the_function_would_not_take_is_refused_and_its_id_stays_free(
    client: Client, serving: Serving, verb: str, real_server: Server, namespace: str
) -> None:
    with serving():  # the application of this worker has registered them
        for fn, args, kwargs, named in MISFITS.values():
            with pytest.raises(UsageError, match=named):
                await VERBS[verb](client, fn, args, kwargs)
        assert await client.search(status=("queued", "running", "suspended", "done")) == []
    redis: Any = real_server.sync_client()
    assert not list(redis.scan_iter(match=f"{{{namespace}:*}}:schedule*"))


async def test_of_many_calls_those_that_travel_with_a_misfit_are_not_made(client: Client, real_server: Server) -> None:
    with pytest.raises(UsageError, match="number"):
        await client.rpc_many(double, [("a", 1), ("b",)])
    with pytest.raises(UsageError, match="number"):
        await client.options().rpc_many(double, [("a", 1), ("b", "many")])
    with pytest.raises(UsageError, match="pipeline"):
        await client.options(pipeline=real_server.sync_client().pipeline()).rpc_many(double, [("a", 1)])
    assert await client.search(status=("queued", "done")) == []


@FOR_EVER
@pytest.mark.usefixtures("in_one_partition")
async def test_options_say_how_long_a_call_is_kept(
    client: Client, new_client: NewClient, serving: Serving, real_server: Server
) -> None:
    redis: Any = real_server.sync_client()
    keys = (await store_of(client)).keyspaces[-1]
    with serving():
        for id, retention, kept_ms in (("s", 7200, 2 * HOUR_MS), ("t", "2h", 2 * HOUR_MS), ("e", "forever", -1)):
            await (await client.options(retention=retention).rpc(id, double, 1)).result(30)
            key = keys.promise(id)
            await eventually(lambda key=key: redis.pttl(key) != -1 or redis.hget(key, "r") == b"-1", "it to be closed")
            left_ms = int(redis.pttl(key))
            assert is_about(left_ms, kept_ms) if kept_ms > 0 else left_ms == -1


async def test_a_call_may_begin_anew_what_has_ended(client: Client, serving: Serving) -> None:
    with serving():
        again = client.options(if_finished="start")
        first = await again.rpc("a", double, 1)
        assert (first.disposition, await first.result(30)) == ("created", 2)
        second = await again.rpc("a", double, 2)
        assert (second.disposition, await second.result(30)) == ("created", 4)
        third = await client.rpc("a", double, 3)
        assert (third.disposition, await third.result(30)) == ("finished", 4)
        with pytest.raises(OtherFunction):
            await again.rpc("a", odd, "a", 1)


async def test_while_it_goes_on_a_call_that_may_begin_anew_attaches(client: Client) -> None:
    again = client.options(if_finished="start")
    assert (await again.rpc("a", double, 1)).disposition == "created"
    assert (await again.rpc("a", double, 2)).disposition == "attached"
    await client.get("a").cancel(force=True)


async def test_of_calls_that_are_debounced_the_last_one_counts(client: Client, serving: Serving) -> None:
    late = client.options(debounce="1h")
    handles = [await late.rpc("a", double, number) for number in range(3)]
    assert [one.disposition for one in handles] == ["created", "debounced", "debounced"]
    described = await client.describe("a")
    assert described.args == [2]
    soon = client.options(debounce=("1h", "1h"))
    assert (await soon.rpc("a", double, 7)).disposition == "debounced"
    moved = (await client.describe("a")).waiting_on or [described]
    assert moved
    with serving():
        await client.wake("a")
        assert await handles[0].result(30) == 14
        assert (await late.rpc("a", double, 8)).disposition == "created"
    await client.get("a").cancel(force=True)


async def test_a_debounced_call_has_the_deadline_of_the_last_one(client: Client) -> None:
    first = client.options(debounce="1h", timeout="2h")
    await first.rpc("a", double, 1)
    before = (await client.describe("a")).timeout_at_ms
    assert (await client.options(debounce="1h", timeout="3h").rpc("a", double, 2)).disposition == "debounced"
    after = (await client.describe("a")).timeout_at_ms
    assert before
    assert after
    assert after - before >= 3_600_000
    await client.options(debounce="1h").rpc("a", double, 3)
    assert (await client.describe("a")).timeout_at_ms is None
    await client.get("a").cancel(force=True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"priority": 0}, "priority 0: use 1"),
        ({"priority": 6}, "priority 6: use 1"),
        ({"priority": True}, "priority True: use 1"),
        ({"priority": 1, "target": "poll://uni@workers/w1"}, "what only one worker may run has no priority"),
        ({"key": "a\n"}, "none of them a control character"),
        ({"key": "x" * 129}, "use at most 128 bytes"),
        ({"key": "{a}"}, "braces cannot be used"),
        ({"labels": {"A": "1"}}, "label 'A': a name has"),
        ({"labels": {"a": 1}}, "label a 1: it is a text"),
        ({"labels": {"func": "x"}}, "label func: the index of this name is for the functions"),
        ({"labels": {f"n{n}": "" for n in range(9)}}, "give at most 8 names"),
        ({"if_finished": "no"}, "use 'attach' or 'start'"),
        ({"debounce": "0s"}, "give a duration, and a second one"),
        ({"debounce": ("2s", "1s")}, "give a duration, and a second one"),
        ({"debounce": "1s", "delay": "1s"}, "leave delay out"),
    ],
)
async def test_each_option_has_its_bounds(client: Client, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        client.options(**options)
