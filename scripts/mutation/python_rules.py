"""Mutants of Python: statements dropped, conditions fixed, bounds moved by one, guards taken away.

Docstrings and other text, annotations and the words of log lines are not changed. Whole log lines are dropped only if
they are warnings or errors. An assignment is dropped only outside ``__init__``, and only if its target is an attribute
or an item: without the others nothing would run. A ``return`` or ``continue`` stays where nothing follows it anyway.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from scripts.mutation.mutant import Mutant, in_one_line, numbered

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_REVERSED = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
"""Operators whose change negates the condition and moves no bound."""
_RECKONED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_SAID = ("warning", "error", "exception")
_SMALL = 10  # a smaller number is a count and gets one more; a larger one is a size and gets ten times as large


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of one module, in the order of its lines."""
    found = _Finder()
    found.visit(ast.parse(source))
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    whole, made, known = source.encode(), list[Mutant](), set[str]()
    for change in found.changes:
        first, last = change.first, change.last
        start = starts[first.lineno - 1] + first.col_offset
        end = starts[cast("int", last.end_lineno) - 1] + cast("int", last.end_col_offset)
        text = (whole[:start] + change.after.encode() + whole[end:]).decode()
        if text not in known:
            known.add(text)
            said = f"{change.before or in_one_line(whole[start:end].decode())} -> {change.after}"
            made.append(Mutant(path, first.lineno, change.where, said, text))
    return numbered(made)


@dataclass(frozen=True, slots=True)
class _Change:
    """The code ``after`` replaces the nodes from ``first`` to ``last``."""

    first: ast.stmt | ast.expr
    last: ast.stmt | ast.expr
    where: str
    after: str
    before: str
    """The old code as it is shown; if empty, as it is written."""


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.changes: list[_Change] = []
        self._inside: list[str] = []
        self._conditions = set[ast.expr]()
        self._last = set[ast.stmt]()
        """Statements after which a function, or one pass of a loop, is over: to leave it there changes nothing."""

    # -- what has names

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            self._visit_body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._inside.append(node.name)
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        returns_nothing = isinstance(node.returns, ast.Constant) and node.returns.value is None
        if returns_nothing and node.name != "__init__" and len(body) > 1:
            self._replace(body[0], "return", until=body[-1], before="all it does")
        self._inside.pop()
        self._visit_body(node)

    def _visit_body(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._inside.append(node.name)
        if not isinstance(node, ast.ClassDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
            self._last.update(_last_of(node.body, ast.Return))
        for statement in node.body:
            self.visit(statement)
        self._inside.pop()

    # -- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring, or `...`
        said = _logged(node.value)
        if said is None or said in _SAID:
            self._replace(node, "pass")
        if said is None:
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        is_settled = all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
        if is_settled and self._inside[-1:] != ["__init__"]:
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        if node not in self._last:
            self._replace(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            if node not in self._last:
                self._replace(node, "pass")
            return
        if not isinstance(node.value, ast.Constant):
            self._replace(node.value, "None")
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        self._fix(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._replace(node.test, "False")
            self.visit(node.test)
        self._last.update(_last_of(node.body, ast.Continue))
        for statement in node.body:
            self.visit(statement)

    def visit_For(self, node: ast.For) -> None:
        self._last.update(_last_of(node.body, ast.Continue))
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if not isinstance(node.body[0], ast.Raise):
            caught = "" if node.type is None else f" {ast.unparse(node.type)}"
            self._replace(node.body[0], "raise", until=node.body[-1], before=f"what is done on{caught}")
        for statement in node.body:
            self.visit(statement)

    # -- expressions

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._fix(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._fix(condition)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for at, operator in enumerate(node.ops):
            if node in self._conditions and isinstance(operator, _REVERSED):
                continue
            operators = [*node.ops[:at], _COMPARED[type(operator)](), *node.ops[at + 1 :]]
            self._replace(node, _spelled(ast.Compare(node.left, operators, node.comparators)))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, _spelled(ast.BoolOp(other, node.values)))
        for at in range(len(node.values)):
            left = node.values[:at] + node.values[at + 1 :]
            self._replace(node, _spelled(left[0] if len(left) == 1 else ast.BoolOp(node.op, left)))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not) and node not in self._conditions:
            self._replace(node, _spelled(node.operand))
        elif isinstance(node.op, ast.USub):
            self._replace(node, _spelled(node.operand))
            return
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        other = _RECKONED.get(type(node.op))
        if other is not None:
            self._replace(node, _spelled(ast.BinOp(node.left, other(), node.right)))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _logged(node) is not None:
            return
        if isinstance(node.func, ast.Name) and node.func.id in _NAMES:
            self._replace(node.func, _NAMES[node.func.id])
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of a zip: it states a fact that always holds
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Slice) and node.slice.step is None and isinstance(node.ctx, ast.Load):
            self._replace(node, _spelled(node.value))
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """It is text, and before Python 3.12 the nodes in it have no positions."""

    def visit_Constant(self, node: ast.Constant) -> None:
        match node.value:
            case bool(value):
                self._replace(node, str(not value))
            case int(value):
                self._replace(node, str(value + 1 if abs(value) < _SMALL else value * 10))
            case float(value):
                self._replace(node, str(value * 10 if value else 1.0))
            case _:
                pass

    # -- changes

    def _fix(self, condition: ast.expr) -> None:
        """Make the condition always true, and always false."""
        self._conditions.add(condition)
        for word in ("True", "False"):
            self._replace(condition, word)

    def _replace(
        self, node: ast.stmt | ast.expr, after: str, *, until: ast.stmt | ast.expr | None = None, before: str = ""
    ) -> None:
        self.changes.append(_Change(node, until or node, ".".join(self._inside), after, before))


def _last_of(body: list[ast.stmt], kind: type[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of this kind after which the body is over, whichever branch was taken."""
    match body[-1]:
        case ast.If(body=first, orelse=second):
            bodies = [first, second]
        case ast.With(body=inner) | ast.AsyncWith(body=inner):
            bodies = [inner]
        case ast.Try(body=tried, handlers=handlers, orelse=second):
            bodies = [second or tried, *(handler.body for handler in handlers)]
        case last:
            bodies = []
            if isinstance(last, kind):
                yield last
    for inner in bodies:
        if inner:
            yield from _last_of(inner, kind)


def _spelled(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


def _logged(node: ast.expr) -> str | None:
    """The level of a call that writes to the log; None for other code."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=level)) if level != "isEnabledFor":
            return level
        case _:
            return None
