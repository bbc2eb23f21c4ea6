"""Draws the diagrams of the pages with mermaid in a headless Chromium; see ``scripts/diagrams``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "images" / "diagrams"
LOOK = {"startOnLoad": False, "theme": "neutral", "fontFamily": "system-ui, sans-serif", "htmlLabels": False}


def diagrams() -> dict[str, str]:
    """The text of each diagram by the name of its picture, as docs/conf.py looks for it."""
    texts: list[str] = []
    for page in sorted(DOCS.rglob("*.md")):
        texts += re.findall(r"(?ms)^```mermaid\n(.*?)^```$", page.read_text(encoding="utf-8"))
    return {f"{hashlib.sha256(text.strip().encode()).hexdigest()[:12]}.svg": text.strip() for text in texts}


async def draw(program: str) -> None:
    """Draw those that have no picture, and remove pictures of diagrams that are gone."""
    from harness.chromium import Chromium, Tab, find  # needs playwright

    wanted = diagrams()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.svg"):
        if path.name not in wanted:
            path.unlink()
    executable = find()
    assert executable, "a Chromium is needed; on Debian: apt-get install chromium"
    browser = Chromium(executable)

    async def walk(tab: Tab) -> None:
        await tab.page.goto("data:text/html,<meta charset=utf-8><body></body>")
        await tab.page.add_script_tag(content=program)
        await tab.evaluate(f"mermaid.initialize({json.dumps(LOOK)})")
        for number, (name, text) in enumerate(wanted.items()):
            if not (FOLDER / name).exists():
                drawn = f"mermaid.render('d{number}', {json.dumps(text)}).then((made) => made.svg)"
                svg = str(await tab.evaluate(drawn))
                (FOLDER / name).write_text(svg.replace("<br>", "<br/>") + "\n", encoding="utf-8")
                print(FOLDER / name)

    try:
        await browser.use("data:", walk)
    finally:
        browser.close()


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1]).read_text(encoding="utf-8")))
