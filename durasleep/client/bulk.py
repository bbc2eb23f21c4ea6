"""Verbs that people give to executions, one by one or to all that a filter finds; what the answers mean in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from durasleep.client.client import Client, store_of
from durasleep.errors import DurasleepError, StoreUnavailable
from durasleep.model import Duration, State, root_of
from durasleep.protocol import audit
from durasleep.protocol.promises import Controlled
from durasleep.query.search import Search, SearchPage
from durasleep.query.statuses import PENDING_STATUSES

AT_ONCE = 1_000  # how many calls run at a time
FAILED_STATUSES = ("failed", "rejected", "timedout", "canceled")
ASLEEP_STATUSES = ("suspended", "delayed")
RUNNABLE_STATUSES = tuple(status for status in PENDING_STATUSES if status != "halted")
_UNCHANGED = ("already", "running")  # words of an answer

Act = Callable[[Client, str], Awaitable[Controlled]]


@dataclass(frozen=True, slots=True)
class Verb:
    """What to do, and to which executions if a filter names no status."""

    name: str
    statuses: Sequence[str]
    act: Act
    only_roots: bool = False
    """Whether it leaves the children of an execution alone."""
    only_ended: Sequence[str] = ()
    """The statuses that it can change, if these are few."""
    audited: str = ""
    """Its name in the audit, if that is another one."""


def wake() -> Verb:
    """End a sleep now, or start a delayed execution now."""
    return Verb("wake", ASLEEP_STATUSES, lambda client, one: client.wake(one))


def reschedule(due: Duration | datetime) -> Verb:
    """Move a sleep, a delayed start, a timeout or a deadline."""
    return Verb("reschedule", ASLEEP_STATUSES, lambda client, one: client.reschedule(one, due))


def cancel(*, force: bool = False) -> Verb:
    """Ask an execution to end, or end it at once."""
    audited = "force" if force else ""
    return Verb("cancel", PENDING_STATUSES, lambda client, one: client.cancel(one, force=force), audited=audited)


def halt(reason: str) -> Verb:
    """Stop an execution where it is."""
    return Verb("halt", RUNNABLE_STATUSES, lambda client, one: client.halt(one, reason))


def resume() -> Verb:
    """Let a halted execution go on."""
    return Verb("resume", ["halted"], lambda client, one: client.resume(one))


def retry() -> Verb:
    """Run a failed execution again."""
    act: Act = lambda client, one: client.retry(one)  # noqa: E731 - as the other verbs
    return Verb("retry", ["failed"], act, only_roots=True, only_ended=FAILED_STATUSES)


@dataclass(frozen=True, slots=True)
class Answer:
    """What has become of one execution."""

    id: str
    word: str | None
    """What the verb has answered; None if it has raised an error."""
    text: str
    """The same for people, or the error."""
    is_failed: bool
    """Whether it could not be done."""

    @property
    def is_changed(self) -> bool:
        """Whether something was done."""
        return not self.is_failed and self.word not in _UNCHANGED


async def control(client: Client, verb: Verb, id: str) -> Answer:
    """Do it to one execution. An error is an answer, too, unless it is StoreUnavailable."""
    try:
        controlled = await verb.act(client, id)
    except StoreUnavailable:
        raise
    except DurasleepError as error:
        return Answer(id, None, str(error), is_failed=True)
    if problem := _other_verb(verb, id, controlled):
        return Answer(id, controlled.word, problem, is_failed=True)
    return Answer(id, controlled.word, f"{id}: {_describe(verb, controlled)}", is_failed=False)


async def control_all(client: Client, verb: Verb, ids: Sequence[str]) -> list[Answer]:
    """Do it to many, at most 1,000 at a time."""
    answers: list[Answer] = []
    for start in range(0, len(ids), AT_ONCE):
        answers += await asyncio.gather(*(control(client, verb, id) for id in ids[start : start + AT_ONCE]))
    return answers


async def next_part(client: Client, search: Search) -> SearchPage:
    """The next executions that are found; none if there are no more."""
    store = await store_of(client)
    while not search.is_over or search.again():
        if found := await store.run(search.part(store.keyspaces)):
            return found
    return SearchPage()


def filter_text(statuses: Sequence[str], options: Mapping[str, str | None], labels: Sequence[str]) -> str:
    """A filter as the options of the command line, for the audit."""
    named = [*(("--status", one) for one in statuses), *options.items(), *(("--label", one) for one in labels)]
    return " ".join(f"{option} {value}" for option, value in named if value)


async def note(client: Client, by: str, verb: Verb, filter: str, count: int) -> None:
    """Keep in the audit what was done to all that a filter has found."""
    store = await store_of(client)
    await store.call(audit.note(store.keyspaces[0], by, verb.audited or verb.name, filter=filter, count=count))


def _other_verb(verb: Verb, id: str, answer: Controlled) -> str:
    """Name the command that helps, if it is another one."""
    if verb.name == "resume" and answer.word == "already" and answer.state is not State.RESOLVED:
        return f"{id} is {answer.state}, and stays so: `durasleep retry {root_of(id)}` runs it again"
    if verb.name == "retry" and answer.word == "halted":
        return f"{id} is halted, and has not failed: `durasleep resume {id}` lets it go on where it was"
    return ""


def _describe(verb: Verb, answer: Controlled) -> str:
    match answer.word, answer.state:
        case "already", State.PENDING:
            return "not asleep"
        case "already", state:
            return f"{state} already"
        case "running", _:
            return "has not ended" if verb.name == "retry" else "not halted"
        case word, _:
            return word
