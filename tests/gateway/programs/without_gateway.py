"""Resonate's Python SDK on the connector of the examples.

The arguments are the URL of a Redis, a namespace, and the folder of the scripts.
"""

import asyncio
import json
import sys
from datetime import timedelta

import rpc_by_group
import sleep
from redis_network import RedisNetwork
from resonate.context import Context
from resonate.resonate import Resonate


async def nap(ctx: Context, number: int) -> int:
    await ctx.sleep(timedelta(seconds=1))
    return number


async def main(url: str, namespace: str, scripts: str) -> None:
    redis = RedisNetwork(url, scripts=scripts, group="default", namespace=namespace)
    resonate = Resonate(network=redis, pid=redis.pid)
    resonate.register(nap)
    naps = [resonate.rpc(f"nap-{number}", nap, number) for number in range(200)]
    results = await asyncio.gather(
        sleep.run(resonate, "trial-ada"),
        rpc_by_group.run(resonate, "album-1"),  # its children are in without_gateway.ts
        *(one.result() for one in naps),
    )
    print(json.dumps([results[0], results[1], sum(results[2:])]), flush=True)
    await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
