"""A deployment under way: workers of this version and of a later one share a group, and take over from one another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import durasleep
from durasleep import Durasleep
from durasleep.client import store_of
from tests.servers import Server
from tests.service.functions import gathering, nap, passage
from tests.service.workers import Effects, Workers, until

PACKAGE = Path(durasleep.__file__).parent
EACH = 8


def a_later_version(directory: Path) -> Path:
    """As a later one of the same schema may be: its scripts read otherwise, its hashes and entries carry more."""
    shutil.copytree(PACKAGE, directory / "durasleep", ignore=shutil.ignore_patterns("__pycache__"))
    lua = directory / "durasleep" / "store" / "lua"
    for script in lua.glob("*.lua"):
        script.write_text(script.read_text() + "\n-- of a later version\n")
    for name, old, new in (
        (
            "make",
            "    if what.queue ~= DEFAULT.queue",
            "    put(record, 'later', 'x')\n    if what.queue ~= DEFAULT.queue",
        ),
        ("dispatch", "'e', epoch, 'x', snapshot)", "'e', epoch, 'x', snapshot, 'later', 'x')"),
    ):
        path = lua / "shared" / f"{name}.lua"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    return directory


async def test_workers_of_two_versions_take_over_from_one_another(
    app: Durasleep, real_server: Server, workers: Workers, effects: Effects, tmp_path: Path
) -> None:
    client: Any = real_server.sync_client()
    later = a_later_version(tmp_path / "later")
    keys = (await store_of(app)).keys()
    for round, (first, second) in enumerate(((None, later), (later, None))):
        names = [f"{round}-{number}" for number in range(EACH)]
        gate = f"gate-{round}"
        dying = await workers.begin(f"first-{round}", package=first).ready()
        passages = [await app.rpc(f"passage-{name}", passage, effects.path, gate) for name in names]
        naps = [await app.rpc(f"nap-{name}", nap, effects.path, 1) for name in names]
        await effects.standing(gate, times=EACH)
        for handle in naps:
            await until(app, handle.id, "suspended")
        family = await app.rpc(f"family-{round}", gathering, 3)
        assert await family.result(timeout=30) == [0, 2, 4]
        made_by_first = client.hgetall(keys.promise(f"family-{round}~1"))
        assert (b"later" in made_by_first) == (first is later)
        await dying.kill()
        heir = await workers.begin(f"second-{round}", package=second).ready()
        effects.open(gate)
        for handle in passages:
            assert await handle.result(timeout=30) == f"through {gate}"
            assert effects.count(f"{handle.id} comes") == effects.count(f"{handle.id} goes") == 1
        for handle in naps:
            assert await handle.result(timeout=30) == f"{handle.id} slept for 1 seconds"
        await heir.kill()
    assert (await app.fsck()).is_clean
