"""Mutants of Python source: small faults, each the replacement of one piece of text by another."""

import ast
import bisect
import re
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.BitXor: ("^", "&"),
}  # fmt: skip
LOGIC = {ast.And: ("and", "or"), ast.Or: ("or", "and")}


@dataclass(frozen=True)
class Mutant:
    """One fault in one file.

    Attributes:
        file: of the source, relative to the root of the project.
        line: where the replaced text begins, from 1.
        operator: the kind of fault.
        start, end: the replaced bytes of the UTF-8 source.
        before, after: what stood there, and what stands there now.
    """

    file: str
    line: int
    operator: str
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """What tells this mutant from all others of the same source."""
        return f"{self.file}:{self.line} [{self.start}] {self.operator}: {self.before} -> {self.after}"

    def apply(self, source: str) -> str:
        """The source with the fault in it.

        >>> source = "def positive(x): return x > 0"
        >>> [mutant.apply(source)[17:] for mutant in find_mutants("positive.py", source)]
        ['return x >= 0', 'return x > 1']
        """
        raw = source.encode()
        return (raw[: self.start] + self.after.encode() + raw[self.end :]).decode()


def find_mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a source, in the order of their place in it.

    Comparisons, arithmetic and logic are exchanged, operands of `and`, `or`, `&` and `|` left out, conditions and signs
    turned round, numbers and truth values changed, branches of `where` swapped, and statements that only act removed.
    Left alone are annotations, decorators, `__all__` and all text; what a `raise` says is text.
    """
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.end, mutant.operator, mutant.after))


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: str) -> None:
        self.file, self.raw = file, source.encode()
        self.found: list[Mutant] = []
        self.line_starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))

    # --- places ---

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        starts = self.line_starts
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self.raw[start:end].decode()

    def _add(self, operator: str, start: int, end: int, after: str) -> None:
        line = bisect.bisect_right(self.line_starts, start)
        self.found.append(Mutant(self.file, line, operator, start, end, self.raw[start:end].decode(), after))

    def _replace(self, operator: str, node: ast.expr | ast.stmt, after: str) -> None:
        self._add(operator, *self._span(node), after)

    def _exchange(self, operator: str, left: ast.expr, right: ast.expr, signs: tuple[str, str] | None) -> None:
        """Exchange the sign that stands between two operands."""
        if signs is None:
            return
        start, end = self._span(left)[1], self._span(right)[0]
        pattern = r"\s+".join(map(re.escape, signs[0].split()))
        if match := re.search(pattern.encode(), self.raw[start:end]):
            self._add(operator, start + match.start(), start + match.end(), signs[1])

    # --- expressions ---

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for i, sign in enumerate(node.ops):
            self._exchange("comparison", operands[i], operands[i + 1], COMPARISONS[type(sign)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._exchange("arithmetic", node.left, node.right, ARITHMETIC.get(type(node.op)))
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            for operand in (node.left, node.right):
                self._replace("operand", node, f"({self._text(operand)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._exchange("logic", left, right, LOGIC[type(node.op)])
        word = f" {LOGIC[type(node.op)][0]} "
        for i in range(len(node.values)):
            rest = [f"({self._text(value)})" for j, value in enumerate(node.values) if j != i]
            self._replace("operand", node, f"({word.join(rest)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._replace("sign", node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace("constant", node, str(node.value + 1))
        elif isinstance(node.value, float):
            self._replace("constant", node, repr(2 * node.value or 1.0))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._replace("condition", node.test, f"(not ({self._text(node.test)}))")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("isinstance", "issubclass"):
            return
        if called == "where" and len(node.args) == 3:
            _, yes, no = node.args
            between = self.raw[self._span(yes)[1] : self._span(no)[0]].decode()
            self._add("where", self._span(yes)[0], self._span(no)[1], self._text(no) + between + self._text(yes))
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text."""

    # --- statements ---

    def visit_If(self, node: ast.If) -> None:
        if self._text(node.test) != "TYPE_CHECKING":
            self._replace("condition", node.test, f"(not ({self._text(node.test)}))")
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace("statement", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace("statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace("statement", node, "pass")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._replace("statement", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace("statement", node, "break")

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if "__all__" not in names and not _is_type(node.value):
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)


def _is_type(value: ast.expr) -> bool:
    """Whether this is a union of types, such as `Tensor | None`."""
    if not (isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)):
        return False
    parts = list(ast.walk(value))
    return any(isinstance(part, ast.Name) and part.id[0].isupper() for part in parts) or any(
        isinstance(part, ast.Constant) and part.value is None for part in parts
    )
