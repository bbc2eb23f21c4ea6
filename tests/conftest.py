"""Fixtures for every test: servers, a namespace of its own, and the check that it leaks no keys.

``--servers=redis7,valkey8`` (or ``DURASLEEP_TEST_SERVERS``) chooses the servers; a named server must exist. ``--quick``
runs on the embedded server, unless others are named, and leaves out the slowest tests: see ``_is_quick``.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings

from durasleep.devserver import DevServer
from durasleep.protocol import keys, keyspaces
from durasleep.protocol.keys import SCHEMA_VERSION, meta_key
from durasleep.query import fsck
from durasleep.runtime import nondeterminism
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import Connector
from durasleep.transport.sync_store import SyncStore
from harness.cluster import Cluster, Clusters
from harness.servers import EMBEDDED, FAKE, KINDS, REAL, MakeServer, Server, Servers, debug, find, found_kinds
from tests import leaks

T = TypeVar("T")

pytest_plugins = (
    "pytester",  # runs a pytest of its own, for the fixtures we give to others
    "tests.durations",
)

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")  # nothing that hypothesis runs is judged by how long it took

_PARTITIONS = int(os.environ.get("DURASLEEP_TEST_PARTITIONS", "1"))
"""How many partitions each namespace has."""
_OFTEN_SEVERAL = 4
_ALSO_IN_SEVERAL = (
    "tests/cli/test_recipes.py",
    "tests/client/test_searching.py",
    "tests/service/test_channels.py",
    "tests/service/test_fan_out.py",
    "tests/service/test_forking.py",
    "tests/service/test_fsck_beside_work.py",
    "tests/service/test_many.py",
    "tests/service/test_limits.py",
    "tests/service/test_indexes.py",
    "tests/service/test_pausing.py",
    "tests/service/test_published.py",
    "tests/service/test_schedule_policies.py",
    "tests/service/test_schedules.py",
    "tests/service/test_workflows.py",
    "tests/store/test_commit.py",
    "tests/store/test_families.py",
    "tests/store/test_fsck.py",
    "tests/store/test_waiting.py",
    "tests/worker/test_workflows.py",
)
"""These run in a namespace with one partition and, on one server, in one with several."""

_NOT_QUICK = (
    "tests/cli/",  # every command is a Python that starts
    "tests/types/",
    "tests/gateway/test_sdks.py",  # these install what a clone need not have
    "tests/laws/test_recordings.py",
    "tests/laws/test_dropped_workflows.py",
    "tests/service/test_doctor.py",  # from here on: what rarely happens, and takes long to bring about
    "tests/service/test_forgotten_awaits.py",
    "tests/service/test_garbage.py",
    "tests/service/test_between_commits.py",
    "tests/service/test_two_versions.py",
    "tests/service/test_waiting_inside.py",
    "tests/service/test_threads.py",
    "tests/service/test_leaving_workers.py",  # test_killed_workers.py tests the same in a harder way
    "tests/service/test_fsck_beside_work.py",
    "tests/store/test_cluster_clients.py",  # every process would start a cluster
    "tests/store/test_reply_errors.py",
    "tests/store/test_topology.py",
)
_QUICK_S = 3.0
_KINDS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        default=os.environ.get("DURASLEEP_TEST_SERVERS", ""),
        help=f"servers to test on, separated by commas, of: {', '.join(KINDS)} (default: all that are found)",
    )

    parser.addoption(
        "--quick", action="store_true", help="only the most important tests, in about a minute, on the embedded server"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell: so would what tests start
        signal.signal(signal.SIGINT, signal.default_int_handler)
    found = found_kinds()
    named = [kind.strip() for kind in str(config.getoption("--servers")).split(",") if kind.strip()]
    for kind in named:
        if kind not in KINDS:
            raise pytest.UsageError(f"--servers: there is no {kind!r}; there are {', '.join(KINDS)}")
        if kind not in found:
            raise pytest.UsageError(f"--servers: {kind} is not installed here; there are {', '.join(found)}")
    quick = [EMBEDDED] if config.getoption("quick") and EMBEDDED in found else []
    config.stash[_KINDS] = named or quick or found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    first = (_one(config.stash[_KINDS]) or [""])[0]
    twice = [item for item in items if _is_one_too_many(item, first)]
    if twice:
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in twice]
    if config.getoption("quick"):
        from tests import durations  # a plugin, which pytest itself must import first

        seconds = partial(durations.seconds_of, table=durations.read_table())
        config.hook.pytest_deselected(items=[item for item in items if not _is_quick(item, seconds)])
        items[:] = [item for item in items if _is_quick(item, seconds)]


def _is_quick(item: pytest.Item, seconds: Callable[[str], float]) -> bool:
    """Whether ``--quick`` runs it: not if it is ``long``, in a slow file, or longer than most when last measured."""
    is_slow = item.get_closest_marker("long") or item.nodeid.startswith(_NOT_QUICK)
    return not is_slow and seconds(item.nodeid) < _QUICK_S


def _is_one_too_many(item: pytest.Item, first: str) -> bool:
    """Whether it has several partitions, and is not on the server that is chosen for that."""
    params: dict[str, Any] = cast("Any", item).callspec.params if hasattr(item, "callspec") else {}
    if "partition_count" not in params or params["partition_count"] == 1:
        return False
    return any(params.get(name, first) != first for name in _SERVER_FIXTURES)


def pytest_collection_finish() -> None:
    """Leave objects that live as long as the session out of garbage collection: some tests make many others."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    return f"servers: {', '.join(config.stash[_KINDS])}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = metafunc.config.stash[_KINDS]
    for name, choose in _SERVER_FIXTURES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, choose(kinds), indirect=True)
    if "partition_count" in metafunc.fixturenames and _runs_twice(metafunc.definition):
        metafunc.parametrize("partition_count", [1, _OFTEN_SEVERAL], indirect=True, ids="{}-partitions".format)
    if "cluster" in metafunc.fixturenames:
        nothing = pytest.param("", marks=pytest.mark.skip("no server is chosen that can be a node of a cluster"))
        metafunc.parametrize("cluster", _real(kinds) or [nothing], indirect=True)


def _runs_twice(item: pytest.Item) -> bool:
    is_chosen = item.nodeid.startswith(_ALSO_IN_SEVERAL) and not item.get_closest_marker("one_partition")
    return is_chosen and _PARTITIONS == 1


def _all(kinds: list[str]) -> list[str]:
    return kinds


def _real(kinds: list[str]) -> list[str]:
    chosen = [kind for kind in REAL if kind in kinds]
    if "redis7" not in kinds and "redis8" in kinds:
        chosen.append("redis8")
    return chosen or [kind for kind in kinds if kind != FAKE]  # another server is better than none


def _fake_and_real(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind == FAKE] + _real(kinds)


def _one(kinds: list[str]) -> list[str]:
    return (_real(kinds) or kinds)[:1]


_SERVER_FIXTURES = {"server": _all, "real_server": _real, "kit_server": _fake_and_real, "one_server": _one}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Every server of this session, by kind, started when first asked for."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.stop()


@pytest.fixture
async def server(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Server]:
    """Each server, also fakeredis: for tests of the scripts."""
    server = servers.get(request.param)
    yield server
    await server.close_clients()


real_server = server
"""Redis 7 (or 8) and Valkey 8: for tests of time, blocking and connections, which need an address."""
kit_server = server
"""Those and fakeredis: for the test kit, which runs on them."""
one_server = server
"""The first real one: for tests that need a server of any kind."""


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    """The clusters of this session, by kind, started when first asked for."""
    clusters = Clusters(tmp_path_factory.mktemp("clusters"))
    yield clusters
    clusters.stop()


@pytest.fixture
def cluster(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[Cluster]:
    """A cluster of each kind of ``real_server``; what a test breaks in it is healed after the test."""
    cluster = clusters.get(request.param)
    yield cluster
    cluster.heal()


@pytest.fixture
def share(request: pytest.FixtureRequest) -> Callable[[Sequence[T]], Sequence[T]]:
    """This test's part of what is shared out among the kinds of servers it runs on: all of it, if there is one."""
    name = _server_fixture_of(request)
    assert name, "without a server there is nothing to share"
    kinds = _SERVER_FIXTURES[name](request.config.stash[_KINDS])
    at = kinds.index(cast("Server", request.getfixturevalue(name)).kind)
    return lambda things: things[at :: len(kinds)]


def _server_fixture_of(request: pytest.FixtureRequest) -> str | None:
    return next((name for name in _SERVER_FIXTURES if name in request.fixturenames), None)


@pytest.fixture
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeServer]:
    """Starts servers of the test's own, to be killed and restarted: ``make_server(kind=None, **DevServer options)``.

    By default it is of the same kind as ``real_server``, and keeps every write (``fsync="always"``).
    """
    started: list[DevServer] = []

    def make(kind: str | None = None, **options: Any) -> DevServer:
        chosen = kind or _kind_of(request)
        found = find(chosen)
        if not found:
            pytest.skip(f"{chosen} is not installed")
        options = {"fsync": "always", "binary": found[0], "extra_args": debug(chosen)} | options
        server = DevServer(options.pop("directory", tmp_path / f"server-{len(started)}"), **options)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        server.stop()


def _kind_of(request: pytest.FixtureRequest) -> str:
    for name in reversed(_SERVER_FIXTURES):
        if name in request.fixturenames:
            server = cast("Server", request.getfixturevalue(name))
            if server.kind != FAKE:
                return server.kind
    real = _real(request.config.stash[_KINDS])
    if not real:
        pytest.skip("no real server is installed")
    return real[0]


@pytest.fixture
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No function was warned of before: what differs between replays is said once for each."""
    monkeypatch.setattr(nondeterminism, "_said", set[Any]())
    monkeypatch.setattr(nondeterminism, "_reminded", Counter[str]())


@pytest.fixture
def in_one_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every id belongs to the last partition: for tests of scripts and loops, which know only one."""

    def last(id: str, partitions: int) -> int:
        return partitions - 1

    for module in (keys, keyspaces):
        monkeypatch.setattr(module, "partition_of", last)


@pytest.fixture
def partition_count(request: pytest.FixtureRequest) -> int:
    """How many partitions the namespace has."""
    node = cast("pytest.Function", request.node)
    return 1 if node.get_closest_marker("one_partition") else getattr(request, "param", _PARTITIONS)


@pytest.fixture
def namespace(partition_count: int) -> str:
    """A namespace of its own; keys that are left in it are checked, see ``no_leaks``."""
    return f"t{secrets.token_hex(6)}"


def _broken(client: Any, namespace: str, partitions: int) -> list[str]:
    """The findings of ``fsck``, one line each."""
    store = SyncStore(Connector.of(client), namespace=namespace, settings=DEFAULTS, name="fsck")
    try:
        store.partitions.set_count(partitions)  # what else the meta hash has, a test may have broken
        findings = store.run(fsck.fsck(store.keyspaces)).findings
    finally:
        store.close()
    # A killed client may be among the waiters of an execution until it has ended.
    return [f"fsck: {finding.kind}: {finding.id} {finding.text}" for finding in findings if finding.kind != "client"]


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test with a ``namespace``, fail on keys without an owner or a TTL, and on findings of ``fsck``.

    ``@pytest.mark.leaves_keys("why")`` lets a test leave any keys.
    """
    name = _server_fixture_of(request)
    if name is None or "namespace" not in request.fixturenames:
        yield
        return
    server = cast("Server", request.getfixturevalue(name))
    namespace = cast("str", request.getfixturevalue("namespace"))
    client = server.sync_client()
    node = cast("pytest.Function", request.node)
    partitions = cast("int", request.getfixturevalue("partition_count"))
    if partitions > 1:
        client.hset(meta_key(namespace), mapping={"schema": SCHEMA_VERSION, "partitions": partitions})
    yield
    client = server.sync_client()
    names, parts = leaks.read(client, namespace)
    found = [f"partition {number}: {leak}" for number, part in parts.items() for leak in leaks.leaks(part)]
    may_leave_keys = node.get_closest_marker("leaves_keys")
    if names and not may_leave_keys:
        found += _broken(client, namespace, leaks.count(client, namespace))
    if names:
        client.delete(*names)
    if found and not may_leave_keys:
        pytest.fail("keys were left behind:\n" + "\n".join(found), pytrace=False)
