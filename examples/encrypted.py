"""A codec hook encrypts every payload, so that Redis never sees arguments, results and errors in plain text.

A key:         python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"
As a worker:   PAYLOAD_KEY=... durasleep worker examples.encrypted:app
As a client:   PAYLOAD_KEY=... python -m examples.encrypted
"""

import asyncio
import os

from cryptography.fernet import Fernet

from durasleep import Codec, Context, Durasleep


class Encryption:
    """Names, ids and times stay readable; arguments, results and errors of workflows do not."""

    def __init__(self, key: str) -> None:
        self._fernet = Fernet(key)

    def wrap(self, payload: bytes) -> bytes:
        return self._fernet.encrypt(payload)

    def unwrap(self, payload: bytes) -> bytes:
        return self._fernet.decrypt(payload)


app = Durasleep(codec=Codec(outer=Encryption(os.environ["PAYLOAD_KEY"])))


@app.workflow
async def diagnose(ctx: Context, patient: str) -> str:
    finding = await ctx.run(examine, patient)
    await ctx.sleep(0.5)
    return f"{patient}: {finding}"


def examine(patient: str) -> str:
    return f"{len(patient)} letters and in good health"


async def main() -> None:
    async with app:
        print(await (await app.rpc("diagnosis-1", diagnose, "Ada Lovelace")))


if __name__ == "__main__":
    asyncio.run(main())
