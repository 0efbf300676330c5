"""Theory files declare; the engine computes.  Refuse in derivations/ what lets a theory bring its result.

    python tools/check_derivations.py [FILE ...]        default: every file of derivations/

A theory file imports `fieldtheory` alone and uses only its front door; it writes no number but 0, 1, 2, -1,
does no arithmetic on numbers alone, calls no closed-form function (log, sqrt, solve, ...), and never looks at
a witness (the exact oracle, the samplers).  Checked on the syntax tree: comments and docstrings are free.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

# A theory that consults these would be checked against itself.
WITNESSES = frozenset({"exact", "sample", "validate"})
CLOSED_FORMS = frozenset(
    """
    log ln log1p exp expm1 sqrt cbrt root Pow sin cos tan cot sec csc asin acos atan atan2 acot sinh cosh tanh
    coth asinh acosh atanh acoth erf erfc erfi erfinv erfcinv gamma loggamma digamma polygamma beta zeta hyper
    meijerg factorial binomial LambertW Piecewise Heaviside DiracDelta Float Integer
    solve solveset linsolve nonlinsolve nsolve dsolve diff integrate summation Sum Product Integral Derivative
    Limit det Determinant Trace Matrix lambdify sympify parse_expr parse_latex
    """.split()
)
WAYS_OUT = frozenset(
    "eval exec compile open getattr setattr vars globals locals __import__ float int complex pow".split()
)


def front_door(package: Path = CHECKOUT / "fieldtheory") -> frozenset[str] | None:
    """The names in fieldtheory.__all__, read without importing; None while there is no such list."""
    init = package / "__init__.py"
    for node in ast.parse(init.read_text()).body if init.exists() else []:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return frozenset(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return None


def is_number(node: ast.AST) -> bool:
    """A numeric literal, signed or combined with others by arithmetic."""
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float, complex)


def violations(source: str, names: frozenset[str] | None = None) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for each offence in a theory file's text; ``names``: the front door, if known."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    signs = [node for node in nodes if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)]
    negated = {id(node.operand) for node in signs}
    aliases = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "fieldtheory"
    }
    for node in nodes:
        match node:
            case ast.Import(names=imported):
                for alias in imported:
                    if alias.name != "fieldtheory":
                        yield node.lineno, f"imports {alias.name}; a theory file imports fieldtheory alone"
            case ast.ImportFrom(module=module, level=level) if level or module != "__future__":
                yield node.lineno, f"imports from {'.' * level}{module or ''}; use `import fieldtheory as ft`"
            case ast.Constant(value=value) if type(value) in (int, float, complex):  # not bool
                allowed = (1,) if id(node) in negated else (0, 1, 2)
                if type(value) is not int or value not in allowed:
                    sign = "-" if id(node) in negated else ""
                    yield node.lineno, f"the number {sign}{value!r}; the engine computes coefficients"
            case ast.BinOp() if is_number(node):
                yield node.lineno, f"arithmetic on numbers, {ast.unparse(node)}; the engine computes"
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in CLOSED_FORMS:
                yield node.lineno, f"calls {name}; closed forms come out of rules, they are not typed in"
            case ast.Call(func=ast.Name(id=name)) if name in WAYS_OUT:
                yield node.lineno, f"calls {name}; a theory file only declares"
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in aliases:
                if name in WITNESSES:
                    yield node.lineno, f"looks at {owner}.{name}; a theory knows no witness"
                elif name not in (names or {name}) or name in CLOSED_FORMS or name.startswith("_"):
                    yield node.lineno, f"uses {owner}.{name}, which is not a name of the front door"
            case ast.Attribute(attr=name) if name.startswith("__"):
                yield node.lineno, f"reaches for {name}; a theory file only declares"


def main(arguments: list[str]) -> int:
    paths = [Path(argument) for argument in arguments] or sorted((CHECKOUT / "derivations").rglob("*.py"))
    names = front_door()
    found = [
        f"{path}:{line}: {message}"
        for path in paths
        for line, message in sorted(violations(path.read_text(encoding="utf-8"), names))
    ]
    print("\n".join(found) if found else f"{len(paths)} theory files, all declarative")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
