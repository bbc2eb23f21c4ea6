"""Makes a site of the pages in this folder; ``scripts/docs`` calls Sphinx. It asks nothing of any network."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from docutils import nodes
from docutils.parsers.rst import Directive

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCE = "https://github.com/durasleep/durasleep"
"""Where files are that are no pages: [project.urls] has the same."""
sys.path.insert(0, str(ROOT))

import durasleep  # noqa: E402 - from here, not an installed one
from durasleep import dashboard, sync, testing  # noqa: E402

project = "durasleep"
author = "the authors of durasleep"
version = release = durasleep.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # a name in a signature may be that of several attributes

html_theme = "furo"
html_title = "durasleep"
html_static_path = ["static"]
html_css_files = ["durasleep.css"]
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "https://durasleep.readthedocs.io/")
html_theme_options: dict[str, Any] = {
    "source_repository": SOURCE,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#0f6b5c", "color-brand-content": "#0f6b5c"},
    "dark_css_variables": {"color-brand-primary": "#4fd1b5", "color-brand-content": "#4fd1b5"},
}
html_show_sphinx = False
html_show_copyright = False
pygments_dark_style = "github-dark"
html_copy_source = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "inherited-members": "Exception,BaseException,tuple,str,dict,object"}
autodoc_preserve_defaults = True
autodoc_mock_imports = [name for name in ("django", "flask", "pydantic_ai") if find_spec(name) is None]
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 130
toc_object_entries_show_parents = "hide"


# -- links to files that are no pages lead to the repository


def lead_to_source(_app: Any, name: str, source: list[str]) -> None:
    """A code host follows ``../../examples/saga.py``; on the site this is an address of the repository."""

    def absolute(link: re.Match[str]) -> str:
        target, _, anchor = link[1].partition("#")
        path = (HERE / name).parent / unquote(target)
        if "://" in target or not target or path.resolve().is_relative_to(HERE):
            return link[0]
        relative = path.resolve().relative_to(ROOT)
        kind = "tree" if path.is_dir() else "blob"
        return f"]({SOURCE}/{kind}/main/{relative.as_posix()}{'#' if anchor else ''}{anchor})"

    parts = re.split(r"(?ms)(^```.*?^```$)", source[0])
    source[0] = "".join(
        part if part.startswith("```") else re.sub(r"\]\(([^)\s]+)\)", absolute, part) for part in parts
    )


# -- diagrams were drawn before: nothing draws them here, and no browser needs a program for them


class Diagram(Directive):
    """A fence ``mermaid``: the picture that ``scripts/diagrams`` has made of it."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        name = f"images/diagrams/{hashlib.sha256(text.strip().encode()).hexdigest()[:12]}.svg"
        if not (HERE / name).exists():
            raise self.error("this diagram has no picture yet: call scripts/diagrams")
        return [nodes.image(uri=f"/{name}", classes=["diagram"])]


def describe_diagrams(_app: Any, doctree: nodes.document) -> None:
    """Each diagram is described by the heading above it."""
    for section in doctree.findall(nodes.section):
        for image in section.findall(nodes.image):
            if "diagram" in image["classes"]:
                image["alt"] = f"Diagram: {section.next_node(nodes.title).astext()}"


# -- a public class has its name in annotations, too, and each such name is a link

PUBLIC = {
    f"{made.__module__}.{made.__qualname__}": f"{module.__name__}.{name}"
    for module, names in (
        (dashboard, dashboard.__all__),
        (testing, ("Env", "SyncEnv", "SyncHandle", "Mocked", "DueItem")),
        (sync, sync.__all__),
        (durasleep, durasleep.__all__),
    )
    for name in names
    if hasattr(made := getattr(module, name), "__qualname__")
}


def link_public_name(app: Any, env: Any, node: Any, contents: Any) -> Any:
    """A link to the documented name of a class that annotations name by its module."""
    target = node.get("reftarget", "")
    public = PUBLIC.get(target)
    if node.get("refdomain") != "py" or public is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node.get("refdoc"), app.builder, "obj", public, node, contents)


MADE_BY_USERS = frozenset(
    f"durasleep.{name}"
    for name in (
        *("Batch", "Channel", "Codec", "Durasleep", "Limit", "Retry", "RetryAfter", "Settings", "Target"),
        *("errors.RemoteError", "sync.Client"),
    )
)


def shorten_signature(_app: Any, what: str, name: str, _made: Any, _options: Any, signature: Any, returned: Any) -> Any:
    """The arguments of a class are shown if users make it; a client of redis-py is one thing, of four types."""
    if signature is None:
        return None
    if what in ("class", "exception") and name not in MADE_BY_USERS:
        return "", None
    clients = r"~redis\.\S+?Redis \| ~redis\.\S+?Redis \| ~redis\.\S+?RedisCluster \| ~redis\.\S+?RedisCluster"
    return re.sub(clients, "~redis.client.Redis | ~redis.cluster.RedisCluster", signature), returned


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", lead_to_source)
    app.connect("doctree-read", describe_diagrams)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", link_public_name)
    app.add_directive("mermaid", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
