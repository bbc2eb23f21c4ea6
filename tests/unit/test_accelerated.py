"""The compiled modules are the same code: each .pxd declares the classes as the .py does."""

from __future__ import annotations

import ast
import importlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import durasleep
from durasleep.cli.app import app
from durasleep.runtime import event_loop

PACKAGE = Path(str(files(durasleep)))
PXD = sorted(PACKAGE.rglob("*.pxd"))
IS_COMPILED = not event_loop.__file__.endswith(".py")


def declared(pxd: Path) -> dict[str, tuple[set[str], set[str]]]:
    """The attributes and the methods of each class of a .pxd."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    attributes: set[str] = set()
    methods: set[str] = set()
    for line in pxd.read_text().splitlines():
        if match := re.fullmatch(r"cdef class (\w+):", line):
            attributes, methods = found[match[1]] = set(), set()
        elif match := re.fullmatch(r" +cdef public (?:long long|\w+) ([\w, ]+)", line):
            attributes |= {name.strip() for name in match[1].split(",")}
        elif match := re.fullmatch(r" +cpdef .*?(\w+)\(.*\)", line):
            methods.add(match[1])
        else:
            assert not line.strip() or re.match(r"#|(?:from .* )?cimport | +@cython\.locals", line), line
    return found


def written(module: Path) -> dict[str, tuple[set[str], set[str]]]:
    """The slots and the methods of each class of a module."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ClassDef):
            slots: set[str] = set()
            for one in node.body:
                if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "__slots__":
                    slots = set(ast.literal_eval(one.value))
            found[node.name] = slots, {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def test_what_may_be_compiled_is_known() -> None:
    assert [str(pxd.relative_to(PACKAGE)) for pxd in PXD] == [
        "runtime/activation.pxd",
        "runtime/event_loop.pxd",
        "runtime/journal.pxd",
    ]


@pytest.mark.parametrize("pxd", PXD, ids=lambda pxd: pxd.name)
def test_a_compiled_class_has_the_attributes_of_its_slots(pxd: Path) -> None:
    classes = written(pxd.with_suffix(".py"))
    for name, (attributes, methods) in declared(pxd).items():
        slots, defined = classes[name]
        assert attributes == slots, f"the .pxd and the __slots__ of {name} differ"
        assert methods <= defined, f"{name} has lost methods that its .pxd declares"


@pytest.mark.parametrize("pxd", PXD, ids=lambda pxd: pxd.name)
def test_a_method_that_a_pxd_declares_has_no_closure(pxd: Path) -> None:
    """Cython refuses them, and only the last stage of the CI compiles."""
    classes = {
        node.name: node for node in ast.parse(pxd.with_suffix(".py").read_text()).body if isinstance(node, ast.ClassDef)
    }
    closures = [
        f"{name}.{method.name}, line {node.lineno}"
        for name, (_, methods) in declared(pxd).items()
        for method in classes[name].body
        if isinstance(method, ast.FunctionDef) and method.name in methods
        for node in ast.walk(method)
        if node is not method and isinstance(node, (ast.Lambda, ast.GeneratorExp, ast.FunctionDef))
    ]
    assert not closures


@pytest.mark.parametrize("pxd", PXD, ids=lambda pxd: pxd.name)
def test_all_that_may_be_compiled_is_compiled_or_nothing_is(pxd: Path) -> None:
    module: Any = importlib.import_module("durasleep." + ".".join(pxd.relative_to(PACKAGE).with_suffix("").parts))
    assert module.__file__.endswith(".py") is not IS_COMPILED


def test_the_version_says_whether_it_is_accelerated() -> None:
    shown = CliRunner().invoke(app, ["--version"]).stdout
    assert shown == f"{durasleep.__version__}{' (accelerated)' if IS_COMPILED else ''}\n"
