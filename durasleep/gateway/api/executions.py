"""Executions: starting, waiting for, describing, listing and controlling them."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote

from durasleep.client import Client, requests
from durasleep.client.client import start_once, status_of
from durasleep.codec.published import StepProgress
from durasleep.errors import InvalidDuration, NotFound
from durasleep.gateway.api import calls, values
from durasleep.gateway.api.idempotency import Noted
from durasleep.gateway.api.outcomes import document_of, outcome, pending, wait_for
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.api.routes import Answer, Call, Handler
from durasleep.gateway.api.values import Document
from durasleep.model import Disposition, Kind, PromiseId, State
from durasleep.protocol.promises import Controlled
from durasleep.query.describe import Description
from durasleep.query.search import Search, Summary

_PLAIN = tuple(
    field.name
    for field in dataclasses.fields(Description)
    if field.name
    not in {
        "func",
        "value",
        "error",
        "traceback",
        "args",
        "kwargs",
        "labels",
        "waiting_on",
        "failed_attempts",
        "unread",
    }
)
"""What of a description stands in the answer as it is."""


async def start(call: Call) -> Answer:
    """Start an execution under an id, or attach to the one that has it."""
    return await _start(call, call.id)


async def start_new(call: Call) -> Answer:
    """Start an execution under an id that nobody has."""
    return await _start(call, None)


async def _start(call: Call, id: str | None) -> Answer:
    caller = calls.caller(call.client, call.body)
    args, kwargs = calls.read_arguments(call.body)
    is_new = False

    async def begin() -> Noted:
        nonlocal is_new
        unique = "" if call.repeats is None else call.repeats.unique
        begun = await start_once(caller, unique, id, call.body["function"], tuple(args), kwargs)
        assert begun.disposition is not None
        is_new = True
        return Noted(_status_of(begun.disposition), more={"id": begun.id, "disposition": str(begun.disposition)})

    more = (await call.once(begin)).more
    try:
        return await _answer_start(call, more["id"], Disposition(more["disposition"]), is_new=is_new)
    except NotFound:
        if is_new:
            raise
        raise Problem("answer-not-kept", f"this was done before: {more['id']} is no longer kept") from None


def _status_of(disposition: Disposition) -> int:
    return HTTPStatus.CREATED if disposition is Disposition.CREATED else HTTPStatus.OK


async def _answer_start(call: Call, id: str, disposition: Disposition, *, is_new: bool) -> Answer:
    document = document_of(call)
    if disposition is Disposition.DROPPED:
        found: dict[str, Any] = {"state": None}
    elif call.query["wait"] or disposition is Disposition.FINISHED or not is_new:
        found = outcome(document, await wait_for(call, id), call.client.codec)
    else:
        found = outcome(document, pending(id), call.client.codec)
    started = {"id": id, "disposition": str(disposition), **found, **document.notes()}
    return Answer(_status_of(disposition), started, [("Location", f"/v1/executions/{quote(id, safe='')}")])


async def get(call: Call) -> Answer:
    """Everything there is to see of an execution, perhaps after its end."""
    if call.query["wait"]:
        await wait_for(call, call.id)
    found = await call.client.describe(call.id)
    if found.kind != Kind.EXECUTION:
        raise NotFound(f"{call.id} is no execution, but a {found.kind}: see /v1/promises")
    document = document_of(call)
    described = _describe(document, found)
    if found.state != State.PENDING:
        described |= outcome(document, await status_of(call.client, PromiseId(call.id)), call.client.codec)
    return Answer(HTTPStatus.OK, {**described, **document.notes()})


def _describe(document: Document, found: Description) -> dict[str, Any]:
    """A description, without its outcome."""
    described = {name: getattr(found, name) for name in _PLAIN}
    arguments = {} if found.args is None else document.value("args", found.args)
    arguments |= {} if found.kwargs is None else document.value("kwargs", found.kwargs)
    return {
        **described,
        "function": found.func,
        "labels": dict(found.labels),
        "waiting_on": [dataclasses.asdict(one) for one in found.waiting_on],
        "failed_attempts": [dataclasses.asdict(one) for one in found.failed_attempts],
        "unread": None if found.unread is None else dataclasses.asdict(found.unread),
        **arguments,
    }


async def view(call: Call) -> Answer:
    """What an execution publishes."""
    found = await call.client.view(call.id)
    document = document_of(call)
    steps: dict[str, Any] = {}
    for number, step in found.steps.items():
        at = f"/steps/{number}"
        steps[number] = {
            **document.value("values", dict(step.values), at),
            "progress": _progress(step.progress),
            "at_ms": step.at_ms,
        }
    values_of_run = document.value("values", dict(found.values))
    head = {"id": found.id, "state": str(found.state), **values_of_run, "progress": _progress(found.progress)}
    return Answer(HTTPStatus.OK, {**head, "steps": steps, **document.notes()})


def _progress(progress: StepProgress | None) -> dict[str, Any] | None:
    return None if progress is None else {"done": progress.done, "total": progress.total, "text": progress.text}


async def history(call: Call) -> Answer:
    """What an execution has called."""
    found = await call.client.history(call.id, limit=call.query["limit"], values=call.query["with_values"])
    document = document_of(call)
    calls_made: list[dict[str, Any]] = []
    for index, one in enumerate(found.calls):
        fields = {**dataclasses.asdict(one), "took_ms": one.took_ms}
        del fields["value"]
        if call.query["with_values"]:
            fields |= document.value("value", one.value, f"/calls/{index}")
        calls_made.append(fields)
    answer = {"id": found.id, "at_ms": found.at_ms, "calls": calls_made, "total": found.total}
    return Answer(HTTPStatus.OK, {**answer, **document.notes()})


async def search(call: Call) -> Answer:
    """Executions, page by page."""
    query, searches = call.query, call.shared.searches
    labels = _labels(query["label"] or ())
    names = ("status", "group", "function", "since")
    wanted = (*(_frozen(query[name]) for name in names), tuple(sorted(labels.items())))
    if query["cursor"] is not None:
        page = await searches.go_on(call.client, wanted, query["cursor"], query["limit"])
    else:
        try:
            since_ms = requests.since_ms(calls.read_instant(query["since"], "query since"))
        except InvalidDuration as error:
            raise values.invalid("query since", str(error)) from None
        looking = Search(
            status=query["status"],
            group=query["group"],
            function=query["function"],
            labels=labels,
            since_ms=since_ms,
            codec=call.client.codec,
        )
        page = await searches.begin(call.client, wanted, looking, query["limit"])
    found = {
        "executions": [_summary(one) for one in page.found],
        "cursor": page.cursor,
        "is_all": page.found.is_all and page.cursor is None,
        "notes": page.found.notes,
        "looked_at": page.found.looked_at,
    }
    return Answer(HTTPStatus.OK, found)


def _frozen(value: Any) -> Any:
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _labels(texts: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            raise values.invalid("query label", "write NAME=VALUE, such as customer=7")
        labels[name] = value
    return labels


def _summary(one: Summary) -> dict[str, Any]:
    found = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    found["function"] = found.pop("func")
    return {**found, "labels": dict(one.labels)}


async def groups(call: Call) -> Answer:
    """The groups, with their workers and what waits."""
    found = [dataclasses.asdict(one) for one in await call.client.groups()]
    return Answer(HTTPStatus.OK, {"groups": found})


def _controlling(act: Callable[[Client, str, Mapping[str, Any]], Awaitable[Controlled]]) -> Handler:
    """The handler of a control, which is a method of the client."""

    async def control(call: Call) -> Answer:
        done = await act(call.client, call.id, call.body)
        return Answer(HTTPStatus.OK, {"id": call.id, "word": done.word, "state": str(done.state)})

    return control


def _cancel(client: Client, id: str, body: Mapping[str, Any]) -> Awaitable[Controlled]:
    return client.cancel(id, force=body.get("force", False))


def _halt(client: Client, id: str, body: Mapping[str, Any]) -> Awaitable[Controlled]:
    return client.halt(id, **body)


def _reschedule(client: Client, id: str, body: Mapping[str, Any]) -> Awaitable[Controlled]:
    return client.reschedule(id, calls.read_instant(body["due"], "/due"))


wake = _controlling(lambda client, name, _: client.wake(name))
reschedule = _controlling(_reschedule)
cancel = _controlling(_cancel)
halt = _controlling(_halt)
resume = _controlling(lambda client, name, _: client.resume(name))
retry = _controlling(lambda client, name, _: client.retry(name))
