"""What can be done in the dashboard: what each write asks before, and what it does."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlencode

from durasleep.client import Client, bulk, requests
from durasleep.client.bulk import Answer, Verb
from durasleep.client.client import acting_as, store_of
from durasleep.dashboard.paths import quote_id
from durasleep.dashboard.views.executions import parse_labels
from durasleep.errors import NotFound, UsageError
from durasleep.model import Duration
from durasleep.query.search import Search, SearchPage, Summary

FOUND_MAX = 10_000  # executions that one form changes: some seconds
_PART = 1_000  # that are found at a time
_LOOKED_MAX = 10_000  # that are looked at for it: a tenth of a second
_PARTS_MAX = 50
_SHOWN_MAX = 20  # of those that it changes
_IDS_MAX = 1_000
_FAILURES_MAX = 3  # that a notice names


@dataclass(frozen=True, slots=True)
class Field:
    """Something that the form asks for."""

    name: str
    label: str
    value: str = ""
    hint: str = ""
    is_required: bool = False
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a page asks before something is done."""

    title: str
    text: str
    button: str
    back: str
    """The path of the page to go back to."""
    fields: Sequence[Field] = ()
    facts: Sequence[tuple[str, str]] = ()
    """What is so now, in words."""
    found: Sequence[Summary] = ()
    """The first of the executions that it concerns."""
    count: int | None = None
    """How many these are, if it concerns those that a filter has found."""
    is_all: bool = True
    """Whether there are no more than ``count``."""
    is_grave: bool = False
    """Whether it cannot be undone."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a write is about, and who makes it."""

    client: Client
    """It acts as who makes it."""
    path: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    by: str
    form: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was filled in; empty as long as it is only asked."""
    once: str = ""
    """Names this form, however often it is sent."""

    def nobody(self) -> Client:
        """The client as nobody: what it does is not in the audit one by one."""
        return acting_as(self.client, None)

    @property
    def id(self) -> str:
        """The id or name in the path."""
        return self.path["id"]

    def text(self, name: str) -> str:
        """What was filled in, without spaces around it."""
        return self.form.get(name, "").strip()


@dataclass(frozen=True, slots=True)
class Write:
    """A path, what it asks, and what it does: its answer is a notice."""

    path: str
    ask: Callable[[Subject], Awaitable[Question]]
    do: Callable[[Subject], Awaitable[str]]


# -- executions


@dataclass(frozen=True, slots=True)
class _Words:
    title: str
    text: str
    is_grave: bool = False
    fields: tuple[Field, ...] = ()


_REASON = Field("reason", "Why, for people", "halted by hand")
_WORDS = {
    "wake": _Words("Wake", "A sleep ends now; a delayed execution starts now."),
    "cancel": _Words("Cancel", "The code gets the cancel at its next await, and may clean up.", is_grave=True),
    "force": _Words(
        "Force the end of", "It ends at once. Its code cannot react, and cleans up nothing.", is_grave=True
    ),
    "halt": _Words("Halt", "It stops where it is, until it is resumed. Its timers go on.", fields=(_REASON,)),
    "resume": _Words("Resume", "It goes on from where it was halted."),
    "retry": _Words("Retry", "It runs again from its start, with the same id and arguments. Its steps run again, too."),
}


def _verb(name: str, form: Mapping[str, str]) -> Verb:
    match name:
        case "wake":
            return bulk.wake()
        case "cancel":
            return bulk.cancel()
        case "force":
            return bulk.cancel(force=True)
        case "halt":
            return bulk.halt(form.get("reason", "").strip() or _REASON.value)
        case "resume":
            return bulk.resume()
        case "retry":
            return bulk.retry()
        case _:
            raise NotFound(f"nothing is called {name!r} here")


def _page_of(id: str) -> str:
    return f"/executions/{quote_id(id)}"


async def _facts(subject: Subject) -> list[tuple[str, str]]:
    one = await subject.client.describe(subject.id)
    status = one.state if one.status == "done" else one.status
    found = [("Status", str(status)), ("Function", one.func or ""), ("Group", one.group or "")]
    return [(name, text) for name, text in found if text]


def _control(name: str) -> Write:
    words = _WORDS[name]

    async def ask(subject: Subject) -> Question:
        return Question(
            f"{words.title} {subject.id}?",
            words.text,
            words.title if name != "force" else "Force",
            _page_of(subject.id),
            fields=words.fields,
            facts=await _facts(subject),
            is_grave=words.is_grave,
        )

    async def do(subject: Subject) -> str:
        answer = await bulk.control(subject.client, _verb(name, subject.form), subject.id)
        if answer.is_failed:
            raise UsageError(answer.text)
        return answer.text

    return Write(f"/executions/{{id:id}}/{name}", ask, do)


async def _ask_reschedule(subject: Subject) -> Question:
    return Question(
        f"Reschedule {subject.id}?",
        "Its sleep, delayed start, timeout or deadline ends at another time.",
        "Reschedule",
        _page_of(subject.id),
        fields=(
            Field("due", "Until when", hint="such as 1h30m from now, or 2030-12-24T18:00+01:00", is_required=True),
        ),
        facts=await _facts(subject),
    )


async def _reschedule(subject: Subject) -> str:
    await subject.client.reschedule(subject.id, _due(subject.text("due")))
    return f"{subject.id}: rescheduled"


def _due(text: str) -> Duration | datetime:
    if not re.match(r"\d{4}-", text):
        return f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time: write 2030-12-24T18:00+01:00") from None
    if instant.utcoffset() is None:
        raise UsageError(f"{text!r} has no zone: write {text}Z for UTC, or {text}+01:00")
    return instant


async def _ask_fork(subject: Subject) -> Question:
    return Question(
        f"Fork {subject.id}?",
        "A new execution begins with what this one had done before a step, and goes on with the code of now. "
        "This one is not changed.",
        "Fork",
        _page_of(subject.id),
        fields=(
            Field("new", "Id of the new one", f"{subject.id}-again", is_required=True),
            Field(
                "before",
                "Before which step",
                hint="its number or its name, or end: after all that has ended",
                is_required=True,
            ),
        ),
        facts=await _facts(subject),
    )


async def _fork(subject: Subject) -> str:
    handle = await subject.client.fork(subject.id, subject.text("new"), before=subject.text("before"))
    return f"{handle.id}: {'forked' if str(handle.disposition) == 'created' else 'forked already'}"


async def _ask_send(subject: Subject) -> Question:
    return Question(
        f"Send a message to {subject.id}?",
        "Its code gets it by ctx.receive or ctx.messages. Until it asks for it, the message is in its mailbox.",
        "Send",
        _page_of(subject.id),
        fields=(
            Field("channel", "Channel", is_required=True),
            Field("value", "Value", hint="JSON, or else text; empty is null", is_long=True),
            Field("key", "Key", hint="of several messages with the same key, only one is sent"),
        ),
        facts=await _facts(subject),
    )


async def _send(subject: Subject) -> str:
    key = subject.text("key") or f"form {subject.once}"  # so that a form that is sent twice sends one message
    delivery = await subject.client.send(subject.id, subject.text("channel"), _json(subject.text("value")), key=key)
    words = {"delivered": "delivered", "stored": "stored until it is asked for"}
    return f"{subject.id}: the message is {words.get(delivery, 'not sent, one with this key was sent before')}"


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


# -- many executions


@dataclass(frozen=True, slots=True)
class _Filter:
    """Those that were chosen: ids, or what a filter finds."""

    ids: list[str]
    statuses: list[str]
    func: str = ""
    group: str = ""
    label: str = ""
    since: str = ""
    prefix: str = ""

    @classmethod
    def of(cls, subject: Subject) -> _Filter:
        """What a query names; UsageError if it names nothing, or both."""
        ids = list(dict.fromkeys(value for key, value in subject.query if key == "id" and value))
        statuses = [value for key, value in subject.query if key == "status" and value]
        last = {key: value.strip() for key, value in subject.query}
        named = {name: last.get(name, "") for name in ("func", "group", "label", "since", "prefix")}
        if bool(ids) == bool(statuses or any(named.values())):
            raise UsageError("choose executions, or a filter that finds them")
        if len(ids) > _IDS_MAX:
            raise UsageError(f"choose at most {_IDS_MAX:,} executions, or a filter that finds them")
        return cls(ids, statuses, **named)

    def search(self, verb: Verb) -> Search:
        """What the filter finds; UsageError for one that cannot be used."""
        if verb.only_ended and (wrong := [one for one in self.statuses if one not in verb.only_ended]):
            raise UsageError(f"status {wrong[0]}: there is nothing to {verb.name}; use {', '.join(verb.only_ended)}")
        return Search(
            status=self.statuses or verb.statuses,
            group=self.group or None,
            function=self.func or None,
            labels=parse_labels(self.label),
            since_ms=requests.since_ms(_due(self.since) if self.since else None),
            only_roots=verb.only_roots,
            prefix=self.prefix,
            looked_max=_LOOKED_MAX,
        )

    def text(self, verb: Verb) -> str:
        """The filter as options of the command line, for the audit."""
        options = {"--group": self.group, "--func": self.func, "--since": self.since, "--prefix": self.prefix}
        return bulk.filter_text(self.statuses or verb.statuses, options, [self.label] if self.label else [])

    def facts(self, verb: Verb) -> list[tuple[str, str]]:
        """The filter for people."""
        named = {
            "Function": self.func,
            "Group": self.group,
            "Label": self.label,
            "Made within": self.since,
            "Id begins with": self.prefix,
        }
        found = [("Status", ", ".join(self.statuses or verb.statuses)), *named.items()]
        return [(name, text) for name, text in found if text]

    @property
    def back(self) -> str:
        """The page with the same list."""
        named = {"status": self.statuses, "func": self.func, "group": self.group, "label": self.label}
        named |= {"since": self.since, "id": self.prefix}
        query = urlencode({name: value for name, value in named.items() if value}, doseq=True)
        return f"/executions?{query}" if query else "/executions"


async def _next_part(client: Client, search: Search) -> SearchPage:
    store = await store_of(client)
    return await store.run(search.part(store.keyspaces, _PART))


async def _ask_many(subject: Subject) -> Question:
    name = subject.path["verb"]
    verb, chosen = _verb(name, subject.form), _Filter.of(subject)
    words = _WORDS[name]
    if chosen.ids:
        facts = [("Executions", ", ".join(chosen.ids[:_SHOWN_MAX]))]
        count, is_all, found = len(chosen.ids), True, SearchPage()
    else:
        search = chosen.search(verb)
        found = await _next_part(subject.client, search)
        facts = [*chosen.facts(verb), *(("Note", one) for one in found.notes)]
        if not found and not search.is_over:
            facts.append(("Note", f"{found.looked_at:,} were looked at, and there are more: the command line goes on"))
        count, is_all = len(found), search.is_over
    many = "this execution" if count == 1 else f"{count:,}{'' if is_all else ' and more'} executions"
    return Question(
        f"{words.title} {many}?" if count else f"There is nothing to {verb.name}",
        words.text if count else "",
        f"{'Force' if name == 'force' else words.title} {many}" if count else "",
        chosen.back,
        fields=words.fields,
        facts=facts,
        found=found[:_SHOWN_MAX],
        count=count,
        is_all=is_all,
        is_grave=words.is_grave,
    )


async def _do_many(subject: Subject) -> str:
    verb, chosen = _verb(subject.path["verb"], subject.form), _Filter.of(subject)
    if chosen.ids:
        return _summary(verb, await bulk.control_all(subject.client, verb, chosen.ids), is_over=True)
    answers: list[Answer] = []
    search = chosen.search(verb)
    quiet = subject.nobody()  # the audit has one entry for all of it
    try:
        for _ in range(_PARTS_MAX):
            if len(answers) >= FOUND_MAX or (search.is_over and not search.again()):
                break
            found = await _next_part(quiet, search)
            answers += await bulk.control_all(quiet, verb, [one.id for one in found])
    finally:
        if changed := sum(one.is_changed for one in answers):
            await bulk.note(quiet, subject.by, verb, chosen.text(verb), changed)
    return _summary(verb, answers, is_over=search.is_over)


def _summary(verb: Verb, answers: Sequence[Answer], *, is_over: bool) -> str:
    failed = [one.text for one in answers if one.is_failed]
    changed = sum(one.is_changed for one in answers)
    same = len(answers) - changed - len(failed)
    more = [(same, "needed no change"), (len(failed), "failed")]
    text = f"{verb.name}: " + ", ".join([f"{changed:,} done", *(f"{count:,} {what}" for count, what in more if count)])
    if failed:
        text += f": {'; '.join(failed[:_FAILURES_MAX])}"
    return text if is_over else f"{text}. There are more: do it again."


# -- groups, limits and schedules


async def _ask_group(subject: Subject, change: Literal["pause", "resume"]) -> Question:
    found = [one for one in await subject.client.groups() if one.name == subject.id]
    if not found:
        raise NotFound(f"there is no group {subject.id}")
    facts = [("Workers", f"{len(found[0].workers):,}"), ("Queued and running", f"{found[0].queued:,}")]
    if found[0].paused_since_ms is not None:
        facts.append(("Paused by", found[0].paused_by or "somebody"))
    text = (
        "Its workers take no more executions. What runs goes on; timers fire, and what they wake waits."
        if change == "pause"
        else "Its workers take executions again, within about a second."
    )
    return Question(f"{change.capitalize()} group {subject.id}?", text, change.capitalize(), "/groups", facts=facts)


def _group(change: Literal["pause", "resume"]) -> Write:
    async def do(subject: Subject) -> str:
        client = subject.client
        is_new = await (client.pause_group if change == "pause" else client.resume_group)(subject.id)
        done, same = ("paused", "was paused already") if change == "pause" else ("resumed", "was not paused")
        return f"{subject.id}: {done if is_new else same}"

    return Write(f"/groups/{{id:id}}/{change}", lambda subject: _ask_group(subject, change), do)


_LIMIT_TEXTS = {
    "pause": "Nothing more of it begins. What runs goes on.",
    "resume": "What waits at it begins, as far as it may.",
    "reset": "It has the numbers and weights of the code again.",
}


def _limit(change: Literal["pause", "resume", "reset"]) -> Write:
    async def ask(subject: Subject) -> Question:
        one = await subject.client.limits.get(subject.id)
        facts = [("In use", f"{one.in_use:,}"), ("Waiting", f"{one.parked:,}")]
        title = f"{change.capitalize()} limit {subject.id}?"
        return Question(title, _LIMIT_TEXTS[change], change.capitalize(), "/limits", facts=facts)

    async def do(subject: Subject) -> str:
        limits = subject.client.limits
        if change == "reset":
            await limits.reset(subject.id)
            return f"{subject.id}: reset"
        is_new = await (limits.pause if change == "pause" else limits.resume)(subject.id)
        done, same = ("paused", "was paused already") if change == "pause" else ("resumed", "was not paused")
        return f"{subject.id}: {done if is_new else same}"

    return Write(f"/limits/{{id:id}}/{change}", ask, do)


_NUMBERS = {
    "per_key": ("At a time, of one key", "empty: any number"),
    "total": ("At a time, in all", "empty: any number"),
    "rate": ("Rate at which they begin", "such as 10/s; empty: any"),
    "burst": ("Burst: so many begin at once after a pause", ""),
    "parked_max": ("So many of one key may wait", ""),
}
_NEVER_NONE = ("burst", "parked_max")


def _number_texts(limit: Any) -> dict[str, str]:
    return {name: "" if (value := getattr(limit, name)) is None else str(value) for name in _NUMBERS}


async def _ask_set(subject: Subject) -> Question:
    now = _number_texts(await subject.client.limits.get(subject.id))
    return Question(
        f"Set limit {subject.id}?",
        "The numbers that you change stay until the limit is reset, whatever the code says.",
        "Set",
        "/limits",
        fields=[Field(name, label, now[name], hint) for name, (label, hint) in _NUMBERS.items()],
    )


async def _set(subject: Subject) -> str:
    now = _number_texts(await subject.client.limits.get(subject.id))
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        text = subject.text(name)
        if name not in subject.form or text == now[name]:
            continue
        if not text and name in _NEVER_NONE:
            raise UsageError(f"{_NUMBERS[name][0]}: give a whole number")
        numbers[name] = None if not text else text if name == "rate" else _whole(name, text)
    if not numbers:
        return f"{subject.id}: nothing has changed"
    await subject.client.limits.set(subject.id, **numbers)
    return f"{subject.id}: set"


def _whole(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{_NUMBERS[name][0]}: {text!r} is not a whole number")
    return int(text)


_SCHEDULE_TEXTS = {
    "pause": "It starts nothing until it is resumed. What runs goes on.",
    "resume": "It goes on with its next time. Times that have passed meanwhile are not made up for.",
    "trigger": "It starts one execution now, also if it is paused or another one runs.",
    "delete": "It starts nothing any more. Executions that it has started go on.",
}


def _schedule(change: Literal["pause", "resume", "trigger", "delete"]) -> Write:
    async def ask(subject: Subject) -> Question:
        one = await subject.client.schedules.get(subject.id)
        facts = [("Function", one.function), ("Paused", "no" if one.paused_at_ms is None else "yes")]
        title, text = f"{change.capitalize()} schedule {subject.id}?", _SCHEDULE_TEXTS[change]
        return Question(title, text, change.capitalize(), "/schedules", facts=facts, is_grave=change == "delete")

    async def do(subject: Subject) -> str:
        schedules = subject.client.schedules
        match change:
            case "pause":
                await schedules.pause(subject.id)
            case "resume":
                await schedules.resume(subject.id)
            case "trigger":
                return f"{subject.id}: started {await schedules.trigger(subject.id)}"
            case "delete":
                return f"{subject.id}: {'deleted' if await schedules.delete(subject.id) else 'there is none'}"
        return f"{subject.id}: {change}d"

    return Write(f"/schedules/{{id:id}}/{change}", ask, do)


WRITES: tuple[Write, ...] = (
    *(_control(name) for name in _WORDS),
    Write("/executions/{id:id}/reschedule", _ask_reschedule, _reschedule),
    Write("/executions/{id:id}/fork", _ask_fork, _fork),
    Write("/executions/{id:id}/send", _ask_send, _send),
    Write("/bulk/{verb}", _ask_many, _do_many),
    _group("pause"),
    _group("resume"),
    _limit("pause"),
    _limit("resume"),
    _limit("reset"),
    Write("/limits/{id:id}/set", _ask_set, _set),
    _schedule("pause"),
    _schedule("resume"),
    _schedule("trigger"),
    _schedule("delete"),
)
