"""Runs examples of Resonate's Python SDK at the same time in one process, and prints how each of them ended.

It lies beside a copy of the examples. The arguments are a prefix for their ids, and their names.
"""

import asyncio
import importlib
import json
import sys

from resonate.resonate import Resonate


async def main(prefix: str, names: list[str]) -> None:
    resonate = Resonate()  # RESONATE_URL says where
    pictures = Resonate(group="pictures")
    importlib.import_module("rpc_by_group").serve(pictures)

    async def run(name: str) -> None:
        result = await importlib.import_module(name).run(resonate, f"{prefix}-{name}")
        print(json.dumps({name: result}), flush=True)

    await asyncio.gather(*map(run, names))
    await resonate.stop()
    await pictures.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
