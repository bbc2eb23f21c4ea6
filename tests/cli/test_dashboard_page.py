"""The code of docs/operate/dashboard.md works."""

from __future__ import annotations

import re
from typing import Any

import httpx

from durasleep import Durasleep
from harness.servers import MakeServer
from tests.cli.terminal import ROOT

PAGE = (ROOT / "docs" / "operate" / "dashboard.md").read_text()


async def test_its_application_serves_the_dashboard(make_server: MakeServer) -> None:
    [code] = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
    names: dict[str, Any] = {}
    exec(code, names)
    app: Durasleep = names["app"]
    app.connect(make_server().url)
    transport = httpx.ASGITransport(app=names["web"])
    async with app, httpx.AsyncClient(transport=transport, base_url="http://shop.example") as browser:
        assert "Log in" in (await browser.get("/durasleep/")).text
        token = {"authorization": "Bearer a secret of 16 or more"}
        assert "Nothing waits for a person" in (await browser.get("/durasleep/", headers=token)).text
