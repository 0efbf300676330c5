"""Expressions over spaces -> the text of a straight-line Numba function.

Closed expressions (numbers) and expressions open in one space (vectors) that share their sums become

- one pass over k for all Σ_k and all vectors over that space at the same nesting depth, with what does not
  depend on k computed before the loop, each reciprocal once, and each product from the ones already there;
- for a sum open in another space (Σ_k T_tk v_k, open in t) a matrix-vector product, or a double loop where
  the summand is no such product; what only the inner space enters is a vector computed before.

Cost O(size) for each space and depth, O(product of sizes) for a matrix.  The text depends on the expressions
and the order of the arguments only: not on the process nor its hash seed, and on names only by carrying them.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces, sums, top_replace

_CALLS: Mapping[type, str] = {
    sp.log: "math.log({})", sp.loggamma: "math.lgamma({})", sp.exp: "math.exp({})",
    sp.erf: "math.erf({})", sp.sin: "math.sin({})",
    sp.cos: "math.cos({})", sp.tanh: "math.tanh({})", sp.asin: "math.asin({})", sp.Abs: "abs({})",
    sp.sign: "np.sign({})",  # the derivative of Abs; and that of Max, which lets a NaN through:
    sp.Heaviside: "1.0 if {0} > 0.0 else 0.0 if {0} < 0.0 else {1} + {0}",
}
_EXTREMA: Mapping[type, str] = {sp.Max: "np.maximum({}, {})", sp.Min: "np.minimum({}, {})"}  # a NaN passes
_RELATIONS: Mapping[type, str] = {sp.Gt: ">", sp.Ge: ">=", sp.Lt: "<", sp.Le: "<=", sp.Eq: "==", sp.Ne: "!="}
_MODULE_NAMES = {"math", "np", "njit", "types", "number", "vector", "matrix", "range", "abs", "ValueError"}

Monomial = tuple[tuple[tuple[sp.Expr, bool], int], ...]
"""A product: ((base, whether its reciprocal is meant), exponent >= 1) for each factor, in a fixed order."""


class _Names:
    """Identifiers for generated code: never a keyword, never used twice."""

    def __init__(self) -> None:
        self.used = set(keyword.kwlist) | set(keyword.softkwlist) | _MODULE_NAMES
        self.counters: dict[str, int] = {}

    def take(self, wanted: str) -> str:
        base = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "_"
        base = f"_{base}" if base[0].isdigit() or base.startswith("__") else base
        name, count = base, 2
        while name in self.used:
            name, count = f"{base}_{count}", count + 1
        self.used.add(name)
        return name

    def fresh(self, prefix: str) -> str:
        while True:
            count = self.counters.get(prefix, 0)
            self.counters[prefix] = count + 1
            if (name := f"{prefix}{count}") not in self.used:
                self.used.add(name)
                return name


@dataclass(frozen=True)
class _Step:
    """A value to compute: summed over ``inner`` if given, with a component for each point of ``outer``."""

    target: str
    body: sp.Expr
    outer: Space | None
    inner: Space | None

    @property
    def loops(self) -> tuple[Space, ...]:
        return tuple(space for space in (self.outer, self.inner) if space is not None)


class _Block:
    """Straight-line code at one place: nothing is computed twice; what varies less belongs to ``parent``."""

    def __init__(self, program: _Program, spaces: tuple[Space, ...], parent: _Block | None) -> None:
        self.program, self.spaces, self.parent = program, frozenset(spaces), parent
        self.lines: list[str] = []
        self.memo: dict[Any, str] = {}
        self.products: set[Monomial] = set()

    def emit(self, code: str) -> str:
        name = self.program.names.fresh("x")
        self.lines.append(f"{name} = {code}")
        return name

    def outside(self, expr: sp.Basic) -> bool:
        return self.parent is not None and self.program.spaces(expr) <= self.parent.spaces

    def factors(self, expr: sp.Expr) -> tuple[sp.Expr, Monomial]:
        """expr = (what is constant here) times (a monomial in what is not)."""
        constant: list[sp.Basic] = []
        powers: dict[tuple[sp.Expr, bool], int] = {}
        for factor in sp.Mul.make_args(expr):
            if factor.is_Number or self.outside(factor):
                constant.append(factor)
                continue
            base, exponent = factor.args if factor.is_Pow else (factor, sp.S.One)
            if exponent.is_Rational and not exponent.is_Integer and exponent.q == 2:
                base, exponent = sp.sqrt(base), sp.Integer(exponent.p)
            elif not exponent.is_Integer:
                base, exponent = factor, sp.S.One
            atom = base, bool(exponent < 0)
            powers[atom] = powers.get(atom, 0) + abs(int(exponent))
        return sp.Mul(*constant), self.monomial(powers)

    def monomial(self, powers: Mapping[tuple[sp.Expr, bool], int]) -> Monomial:
        return tuple((factor, powers[factor]) for factor in sorted(powers, key=self.program.factor_key)
                     if powers[factor])

    def scan(self, expr: sp.Basic) -> None:
        """Register every product that will be needed, so that each can be built from the others."""
        if expr.is_Number or self.outside(expr):
            return
        if isinstance(expr, sp.Mul | sp.Pow):
            _, product = self.factors(expr)
            if product in self.products:
                return
            self.products.add(product)
            bases = [base for (base, _), _ in product]
            for base in bases:
                for child in base.args if base.is_Pow else (base,):
                    if child != expr:
                        self.scan(child)
        elif not isinstance(expr, Entry):
            for child in expr.args:
                self.scan(child)

    def lower(self, expr: sp.Basic) -> str:
        """Code (a name, a literal or an element) for the value of an expression at this place."""
        if expr.is_Number or expr.is_NumberSymbol:
            return self.program.literal(expr)
        if self.outside(expr):
            assert self.parent is not None
            return self.parent.lower(expr)
        if isinstance(expr, sp.Symbol):
            return self.program.arguments[expr]
        if expr not in self.memo:
            self.memo[expr] = self.lower_new(expr)
        return self.memo[expr]

    def lower_new(self, expr: sp.Basic) -> str:
        if isinstance(expr, Entry):
            name = self.program.arguments[expr]
            index = ", ".join(self.program.index(space) for space in expr.spaces)
            return self.emit(f"{name}[{index}]") if index else name
        if isinstance(expr, sp.Add):
            return self.lower_sum(expr)
        if isinstance(expr, sp.Mul):
            sign, code = self.term(expr)
            return code if sign == "+" else self.emit(f"-{code}")
        if isinstance(expr, sp.Pow):
            base, exponent = expr.args
            if exponent.is_Rational and exponent.q <= 2 and exponent != sp.Rational(1, 2):
                return self.product(self.factors(expr)[1])
            if exponent == sp.Rational(1, 2):
                return self.emit(f"math.sqrt({self.lower(base)})")
            return self.emit(f"{self.lower(base)} ** {self.lower(exponent)}")
        if isinstance(expr, sp.Piecewise):
            return self.lower_piecewise(expr)
        if expr.func in _CALLS:
            return self.emit(_CALLS[expr.func].format(*(self.lower(arg) for arg in expr.args)))
        if expr.func in _EXTREMA:
            codes = [self.lower(arg) for arg in sorted(expr.args, key=self.program.key)]
            result = codes[0]
            for code in codes[1:]:
                result = self.emit(_EXTREMA[expr.func].format(result, code))
            return result
        raise RuleError(f"{expr.func.__name__} cannot be compiled to a kernel")

    def lower_sum(self, expr: sp.Add) -> str:
        constant = [arg for arg in expr.args if self.outside(arg)]
        terms = [arg for arg in expr.args if arg not in constant]
        if len(constant) > 1:
            constant = [sp.Add(*constant)]
        signed = [self.term(arg) for arg in sorted(terms, key=self.program.key)]
        signed += [("+", self.lower(arg)) for arg in constant]
        signed.sort(key=lambda item: item[0] != "+")  # a stable sort: the positive terms first
        code = signed[0][1] if signed[0][0] == "+" else f"-{signed[0][1]}"
        return self.emit(code + "".join(f" {sign} {name}" for sign, name in signed[1:]))

    def term(self, expr: sp.Basic) -> tuple[str, str]:
        """Sign and code of a term."""
        if not isinstance(expr, sp.Mul):
            negative = expr.is_Number and expr < 0
            return ("-", self.lower(-expr)) if negative else ("+", self.lower(expr))
        constant, product = self.factors(expr)
        sign = "-" if constant.could_extract_minus_sign() and constant.is_Number else "+"
        constant = -constant if sign == "-" else constant
        if not product:
            return sign, self.lower(constant)
        code = self.product(product)
        return sign, code if constant == 1 else self.scaled(self.lower(constant), code)

    def scaled(self, factor: str, code: str) -> str:
        if (factor, code) not in self.memo:
            self.memo[factor, code] = self.emit(f"{factor} * {code}")
        return self.memo[factor, code]

    def product(self, wanted: Monomial) -> str:
        """Build a product from the largest other product that divides it: λ³r⁴y² = (λ³r³)(r y²)."""
        if wanted in self.memo:
            return self.memo[wanted]
        if _degree(wanted) == 1:
            (base, reciprocal), _ = wanted[0]
            code = self.lower(base)
            self.memo[wanted] = self.emit(f"1.0 / {code}") if reciprocal else code
            return self.memo[wanted]
        powers = dict(wanted)
        common = {self.monomial({f: min(n, powers.get(f, 0)) for f, n in other}) for other in self.products}
        shared = [c for c in common if 1 < _degree(c) < _degree(wanted)]
        shared = [c for c in shared if c in self.products] or shared  # a divisor is there anyway
        if shared:
            part = max(shared, key=self.size_key)
        else:
            part = self.monomial({f: n // 2 for f, n in wanted}) or self.monomial(dict(wanted[:1]))
        rest = self.monomial({f: n - dict(part).get(f, 0) for f, n in wanted})
        self.products |= {part, rest}
        self.memo[wanted] = self.emit(f"{self.product(part)} * {self.product(rest)}")
        return self.memo[wanted]

    def size_key(self, product: Monomial) -> tuple[int, list[Any]]:
        return _degree(product), [(self.program.factor_key(factor), n) for factor, n in product]

    def lower_piecewise(self, expr: sp.Piecewise) -> str:
        result = "np.nan"
        for value, condition in reversed(expr.args):
            code = self.lower(value)
            result = code if isinstance(condition, BooleanTrue) else self.emit(
                f"{code} if {self.condition(condition)} else {result}")
        return result

    def condition(self, condition: sp.Basic) -> str:
        if isinstance(condition, BooleanFalse):
            return "False"
        if isinstance(condition, Relational) and condition.func in _RELATIONS:
            left, right = (self.lower(side) for side in condition.args)
            return f"{left} {_RELATIONS[condition.func]} {right}"
        if isinstance(condition, sp.And | sp.Or):
            word = " and " if isinstance(condition, sp.And) else " or "
            args = sorted(condition.args, key=self.program.key)
            return word.join(f"({self.condition(arg)})" for arg in args)
        raise RuleError(f"the condition {type(condition).__name__} cannot be compiled to a kernel")


def _degree(product: Monomial) -> int:
    return sum(n for _, n in product)


class _Program:
    """The steps of one kernel in the order in which they must run, and its source."""

    def __init__(self, scalars: Sequence[sp.Basic], entries: Sequence[Entry], name: str) -> None:
        self.names = _Names()
        self.function = self.names.take(name)
        self.arguments: dict[sp.Basic, str] = {a: self.names.take(a.name) for a in (*scalars, *entries)}
        self.parameters = [self.arguments[a] for a in (*scalars, *entries)]
        self.entries = tuple(entries)
        self.given = {a.name for a in (*scalars, *entries)}
        self.lengths: dict[Space, tuple[str, str]] = {}
        self.checks: list[tuple[str, str]] = []
        for entry in entries:
            for axis, space in enumerate(entry.spaces):
                place = f"{self.arguments[entry]}.shape[{axis}]"
                if space in self.lengths:
                    self.checks.append((self.lengths[space][0], place))
                else:
                    self.lengths[space] = (self.names.take(f"n_{space.name}"), place)
        for space, (length, _) in self.lengths.items():
            if isinstance(space.size, sp.Symbol) and space.size not in self.arguments:
                self.arguments[space.size] = length
        self.indices: dict[Space, str] = {}
        self.keys: dict[sp.Basic, str] = {}
        self.open: dict[sp.Basic, frozenset[Space]] = {}
        self.placeholders: dict[sp.Basic, sp.Expr] = {}
        self.level: dict[sp.Basic, int] = {}
        self.steps: dict[int, list[_Step]] = {}
        self.root = _Block(self, (), None)

    # names, keys and spaces
    def index(self, space: Space) -> str:
        if space not in self.indices:
            self.indices[space] = self.names.take(f"i_{space.name}")
        return self.indices[space]

    def key(self, expr: sp.Basic) -> str:
        """A text that orders expressions by structure and place of the arguments, not by names or hashes."""
        if expr not in self.keys:
            if isinstance(expr, sp.Symbol | Entry):
                text = f"#{list(self.arguments).index(expr):05d}"
            elif isinstance(expr, Space):
                text = f"#{list(self.lengths).index(expr):05d}"
            elif not expr.args:
                text = str(expr)
            else:
                parts = [self.key(arg) for arg in expr.args]
                if isinstance(expr, sp.Add | sp.Mul | sp.Max | sp.Min | sp.And | sp.Or):
                    parts.sort()
                text = f"{expr.func.__name__}({','.join(parts)})"
            self.keys[expr] = text
        return self.keys[expr]

    def factor_key(self, factor: tuple[sp.Expr, bool]) -> tuple[str, bool]:
        return self.key(factor[0]), factor[1]

    def spaces(self, expr: sp.Basic) -> frozenset[Space]:
        if expr not in self.open:
            self.open[expr] = (frozenset(expr.spaces) if isinstance(expr, Entry) else
                               frozenset().union(*(self.spaces(arg) for arg in expr.args)))
        return self.open[expr]

    @staticmethod
    def literal(number: sp.Expr) -> str:
        value = float(number)
        if math.isfinite(value):
            return repr(value) if value >= 0 else f"({value!r})"
        return {math.inf: "np.inf", -math.inf: "(-np.inf)"}.get(value, "np.nan")

    # scheduling
    def depth(self, expr: sp.Basic) -> int:
        return max((self.level.get(atom, 0) for atom in expr.atoms(sp.Symbol, Entry)), default=0)

    def place(self, expr: sp.Expr) -> sp.Expr:
        """The expression with every sum replaced by the name of a value computed earlier."""
        return top_replace(expr, {total: self.value(total) for total in sorted(sums(expr), key=self.key)})

    def value(self, total: SpaceSum) -> sp.Expr:
        if total in self.placeholders:
            return self.placeholders[total]
        free = sorted(open_spaces(total), key=self.key)
        if len(free) > 1:
            raise RuleError(f"a sum over {total.space.name} is open in {' and '.join(s.name for s in free)}: "
                            "kernels hold vectors, not matrices; sum over one of these spaces first")
        body = self.place(total.body)
        outer = free[0] if free else None
        if outer is not None:
            body = self.hoist(body, total.space)
        self.placeholders[total] = self.schedule(body, outer, total.space)
        return self.placeholders[total]

    def hoist(self, body: sp.Expr, inner: Space) -> sp.Expr:
        """Compute beforehand, as a vector, each part of a two-index summand that only ``inner`` enters."""
        spaces = self.spaces(body)
        if isinstance(body, Entry) or inner not in spaces:
            return body
        if spaces == {inner}:
            if body not in self.placeholders:
                self.placeholders[body] = self.schedule(body, inner, None)
            return self.placeholders[body]
        args = list(body.args)
        if isinstance(body, sp.Add | sp.Mul):
            within = [arg for arg in args if self.spaces(arg) == {inner}]
            if within:
                args = [arg for arg in args if arg not in within]
                joint = body.func(*within)
                args.append(joint if isinstance(joint, Entry) else self.hoist(joint, inner))
        return body.func(*(self.hoist(arg, inner) for arg in args))

    def schedule(self, body: sp.Expr, outer: Space | None, inner: Space | None,
                 target: str | None = None) -> sp.Expr:
        target = target or self.names.fresh("v" if outer else "s")
        label = f"value {target}"
        while label in self.given:
            label += "'"
        held = Entry(label, "real", [outer]) if outer else sp.Symbol(label, real=True)
        self.arguments[held] = target
        self.level[held] = 1 + self.depth(body)
        self.steps.setdefault(self.level[held], []).append(_Step(target, body, outer, inner))
        return held

    # printing
    def dot(self, step: _Step) -> str | None:
        """Σ_k T_tk v_k as a matrix-vector product, when the summand is one matrix times one vector."""
        constant, rest = step.body.as_independent(Entry, as_Add=False)
        parts = sp.Mul.make_args(rest)
        matrices = [p for p in parts if isinstance(p, Entry) and len(set(p.spaces)) == 2]
        vectors = [p for p in parts if isinstance(p, Entry) and p.spaces == (step.inner,)]
        if constant != 1 or len(parts) != 2 or len(matrices) != 1 or len(vectors) != 1:
            return None
        matrix, vector = self.arguments[matrices[0]], self.arguments[vectors[0]]
        across = matrices[0].spaces[1] == step.inner
        return f"np.dot({matrix}, {vector})" if across else f"np.dot({vector}, {matrix})"

    def loop(self, steps: Sequence[_Step], loops: tuple[Space, ...]) -> list[str]:
        blocks = [self.root]
        for depth in range(len(loops)):
            blocks.append(_Block(self, loops[: depth + 1], blocks[-1]))
        last, head, tail = blocks[-1], [], []
        for step in steps:
            last.scan(step.body)
        for step in steps:
            code = last.lower(step.body)
            if step.outer is None:
                head.append(f"{step.target} = 0.0")
                last.lines.append(f"{step.target} += {code}")
            elif step.inner is None:
                self.root.lines.append(f"{step.target} = np.empty({self.lengths[step.outer][0]})")
                last.lines.append(f"{step.target}[{self.index(step.outer)}] = {code}")
            else:
                self.root.lines.append(f"{step.target} = np.empty({self.lengths[step.outer][0]})")
                total = self.names.fresh("t")
                blocks[1].lines.insert(0, f"{total} = 0.0")
                last.lines.append(f"{total} += {code}")
                tail.append(f"{step.target}[{self.index(step.outer)}] = {total}")
        lines = last.lines
        for space, block in zip(reversed(loops), reversed(blocks[:-1]), strict=True):
            lines = [f"for {self.index(space)} in range({self.lengths[space][0]}):",
                     *("    " + line for line in lines)]
            if block is not self.root:
                lines = [*block.lines, *lines, *tail]
        return [*head, *lines]

    def source(self, outputs: Mapping[str, sp.Expr]) -> str:
        placed: dict[str, sp.Expr] = {}
        for label, expr in outputs.items():
            free = sorted(open_spaces(expr), key=self.key)
            if len(free) > 1:
                raise RuleError(f"output {label!r} is open in {' and '.join(s.name for s in free)}; "
                                "a kernel returns numbers and vectors, open in at most one space")
            body = self.place(expr)
            target = self.names.take(f"out_{label}")
            placed[label] = self.schedule(body, free[0], None, target) if free else body
        for level in sorted(self.steps):
            groups: dict[tuple[Space, ...], list[_Step]] = {}
            for step in self.steps[level]:
                product = self.dot(step) if len(step.loops) == 2 else None
                if product:
                    self.root.lines.append(f"{step.target} = {product}")
                else:
                    groups.setdefault(step.loops, []).append(step)
            for loops in sorted(groups, key=lambda spaces: [self.key(space) for space in spaces]):
                self.root.lines.extend(self.loop(groups[loops], loops))
        closed = [expr for label, expr in placed.items() if not open_spaces(outputs[label])]
        for expr in closed:
            self.root.scan(expr)
        results = [self.arguments[e] if isinstance(e, Entry) else self.root.lower(e) for e in placed.values()]
        returned = " ".join(code + "," for code in results)
        kinds = ["number"] * (len(self.parameters) - len(self.entries))
        kinds += [("number", "vector", "matrix")[len(entry.spaces)] for entry in self.entries]
        signature = " ".join(kind + "," for kind in kinds)
        lines = ['"""Generated by fieldtheory.compile, named by its hash: editing has no effect."""', "",
                 "import math", "", "import numpy as np", "from numba import njit, types", "",
                 "number = types.float64",
                 'vector = types.Array(number, 1, "C", readonly=True)',
                 'matrix = types.Array(number, 2, "C", readonly=True)', "", "",
                 f'@njit(({signature}), cache=True, error_model="numpy", nogil=True)',
                 f"def {self.function}({', '.join(self.parameters)}):"]
        body = [f"{length} = {place}" for length, place in self.lengths.values()]
        for length, place in self.checks:
            body += [f"if {place} != {length}:",
                     '    raise ValueError("arrays over one space differ in length")']
        body += [*self.root.lines, f"return ({returned})"]
        return "\n".join([*lines, *("    " + line for line in body), ""])


def lower(outputs: Mapping[str, sp.Expr], scalars: Sequence[sp.Symbol | Entry], entries: Sequence[Entry],
          name: str) -> tuple[str, str]:
    """Name and module text of a function of ``scalars`` and ``entries`` that returns a tuple of all outputs.

    Raises
    ------
    RuleError
        A function that has no counterpart in the generated code, or a value open in two spaces.
    """
    program = _Program(scalars, entries, name)
    return program.function, program.source(outputs)
