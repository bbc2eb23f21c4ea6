"""An application for workers of an older version, which knows nothing that came later."""

from __future__ import annotations

import os

from durasleep import Durasleep

app = Durasleep(namespace=os.environ["DURASLEEP_NAMESPACE"])


@app.task
async def double(number: int) -> int:
    return 2 * number
