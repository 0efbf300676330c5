r"""A derivation written out as the appendix of a paper: what is said, in which order, and around which formulas.

Formulas are arranged by `fieldtheory.symbolic.arrange` and printed by `fieldtheory.symbolic.printing`; nothing is
derived here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sympy as sp

from fieldtheory.export.document import LINE_LENGTH, Display, Equation, Section, Table, document, printers
from fieldtheory.export.onesite import (
    CHAINS,
    MEDIUM,
    PAIR,
    PAIR_AVERAGES,
    PAIR_ENERGY,
    PAIR_LAW,
    abbreviated,
)
from fieldtheory.export.prose import capital, escape, listing, prose, sentence, words
from fieldtheory.files import write_atomically
from fieldtheory.symbolic.arrange import collected, in_terms_of, is_average
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.names import name_latex
from fieldtheory.symbolic.printing import FieldPrinter

ORDERS = (sp.Symbol("hbar", positive=True),)
"""What counts orders: a formula is arranged order by order."""

SPACE_WORDS = {"sample": "training samples", "mode": "eigenmodes of the kernel", "site": "hidden units",
               "input": "input components", "test": "test points"}
"""What an index runs over, by the name of its space, in the order in which they are explained."""

OBSERVABLES = {"output": ("f", "the output"), "test_output": ("f", "the output at test points"),
               "readout_norm": ("Q", "the norm of the readout"),
               "hidden_kernel": (r"v^{\top} H v", "the kernel of the hidden layer along a direction $v$")}
"""Left sides and names of the observables defined at the start; others only serve to derive the predictions."""

PREDICTIONS: dict[str, tuple[str, str]] = {
    "readout_norm": (r"\langle Q\rangle", "The norm of the readout has the mean"),
    "mean_output": (r"\langle f\rangle", "The mean output on the training samples is"),
    "output": (r"\langle f{_index}\rangle", "The mean output on the training samples is"),
    "test_coefficients": (r"\alpha", r"At test points it is $\langle f_*\rangle = K_* \alpha$, with {kernel} "
                                     "and the dual weights"),
    "test_output": (r"\langle f{_index}\rangle", "At test points it is"),
    "test_output_squared": (r"\operatorname{Var} f{_index} + \langle f{_index}\rangle^{2}",
                            "The variance of the output there follows from"),
    "weight_second_moment": (r"\frac{1}{N} \sum_{i=1}^{N} \left\langle w_{i {index}}^{2} \right\rangle",
                             "The weights of an input have the mean square"),
    "precision": (r"\langle \lambda{_index}\rangle", "The precision of an input has the mean"),
    "variance": (r"\operatorname{Var}\left(v^{\top} f\right)", "The output along a direction $v$ has the variance"),
    "output_covariance": (r"\operatorname{Cov} f", "The covariance of the output is"),
    "variance_along_mean_output": (r"\operatorname{Var}_{\parallel} f", "The variance along the mean output is"),
    "discrepancy_along_target": (r"\frac{y^{\top} \left(y - \langle f\rangle\right)}{y^{\top} y}",
                                 "The discrepancy along the target, relative to it, is"),
    "hidden_kernel": (r"v^{\top} \langle H\rangle v", "The kernel of the hidden layer obeys"),
    "adapted_kernel": (r"v^{\top} \langle g H\rangle v", "Along $v$, the adapted kernel is"),
    "curvature_kernel": (r"v^{\top} \langle W^{\prime\prime}\rangle v",
                         "The kernel as the mean curvature in the conjugate of the output is"),
    "log_evidence": (r"\ln Z", "The log evidence is"),
}
"""Left side and caption of predictions known by name; {kernel} says what K_* is, {index} in which index it is open."""

NAMED = {"readout_norm": sp.Symbol(r"\langle Q\rangle", positive=True)}
"""Predictions in terms of which later ones are written where that is shorter."""


class StepLike(Protocol):
    """What a step of a derivation must have; ``before`` and ``after`` have ``.expr`` and ``.fields``."""

    rule: str
    description: str
    before: Any
    after: Any
    exact: bool
    remainder: str | sp.Basic | None
    definitions: Mapping[sp.Symbol, sp.Expr]


class DerivationLike(Protocol):
    """What a derivation must have.

    Optional are ``results`` (predictions in terms of the unknowns), ``abbreviations`` (scalars they are written
    in), and ``power_counting``: rows under a header, or an object whose ``table()`` returns them.
    """

    title: str
    network_description: str
    steps: Sequence[Any]
    equations: Mapping[str, sp.Basic]
    observables: Mapping[str, sp.Basic]
    notes: Sequence[str]


def derivation_document(derivation: DerivationLike, *, symbol_names: Mapping[Any, str] | None = None,
                        matrices: Mapping[str, str] | None = None, line_length: float = LINE_LENGTH) -> str:
    r"""The whole derivation as a LaTeX document.

    The network and its action, every step with the action after it, the equations of state and the predictions in
    matrix notation, the table of powers of N, and remarks. Descriptions are prose and may hold math between dollars.
    """
    late = _ordered_symbols(derivation)
    names = {symbol: rf"S^{{({found[1]})}}" for symbol in late if (found := re.fullmatch(r"S_?(\d+)", symbol.name))}
    names |= dict(symbol_names or {})
    draft = _Author(derivation, printers(_expressions(derivation), names, matrices, late), line_length)
    derivation = abbreviated(derivation, draft.width)
    author = _Author(derivation, printers(_expressions(derivation), names, matrices, late), line_length)
    return document(derivation.title, [section for section in author.sections() if section is not None],
                    symbol_names=names, matrices=matrices, line_length=line_length, late=late)


def write_derivation(derivation: DerivationLike, path: str | os.PathLike[str], **options: Any) -> Path:
    """`derivation_document` to a file, whole or not at all."""
    return write_atomically(path, derivation_document(derivation, **options))


def _ordered_symbols(derivation: DerivationLike) -> tuple[sp.Symbol, ...]:
    """Symbols that belong to corrections."""
    return (*ORDERS, *getattr(derivation, "abbreviations", {}))


def _expressions(derivation: DerivationLike) -> list[sp.Basic]:
    found: list[Any] = []
    for step in derivation.steps:
        for action in (step.before, step.after):
            if action is not None:
                found += [action.expr, *action.fields]
        for symbol, value in (step.definitions or {}).items():
            found += [symbol, value]
    for given, name in (("last", "expr"), ("clusters", "pairs")):
        found.append(getattr(getattr(derivation, given, None), name, None))
    for part in ("equations", "results", "abbreviations", "observables", "names", "others"):
        for key, value in getattr(derivation, part, {}).items():
            found += [key, value]
    return [expr for expr in found if isinstance(expr, sp.Basic)]


class _Author:
    """The sentences that join the formulas of a derivation."""

    def __init__(self, derivation: DerivationLike, shown: Mapping[str, FieldPrinter], line_length: float) -> None:
        self.derivation, self.line_length = derivation, line_length
        self.modes, self.traces = shown["modes"], shown["traces"]
        self.defined: set[sp.Basic] = set()

    def sections(self) -> Iterator[Section | None]:
        yield from (self.network(), self.steps(), self.equations(), self.predictions(), self.counting(), self.notes())

    # ------------------------------------------------------------------------------ network and action
    def network(self) -> Section:
        derivation = self.derivation
        blocks: list[Any] = [" ".join(filter(None, [sentence(derivation.network_description), self._spaces()]))]
        if derivation.steps and derivation.steps[0].before is not None:
            start = derivation.steps[0].before
            blocks += ["The posterior is $e^{-S}$, normalised, with the action",
                       *self._with_definitions(start, getattr(start, "definitions", {}))]
        observables = [name for name in OBSERVABLES if name in derivation.observables]
        if observables:
            shown = [(OBSERVABLES[name][0], derivation.observables[name]) for name in observables]
            made = sp.Tuple(*(expr for _, expr in shown)).atoms(Entry)
            new = self._new({name: value for name, value in getattr(derivation, "made", {}).items() if name in made})
            blocks += [f"Of interest are {listing([OBSERVABLES[name][1] for name in observables])},",
                       *self._displays([Equation(expr, left=self._indexed(self.modes, left, expr))
                                        for left, expr in shown], end="," if new else "."),
                       *self._definitions(new, "with")]
        return Section("Network and action", blocks)

    def _spaces(self) -> str:
        expressions = _expressions(self.derivation)
        spaces = {space for expr in expressions for space in expr.atoms(Space)}
        summed = {total.space for expr in expressions for total in expr.atoms(SpaceSum)}
        order = list(SPACE_WORDS)
        items = []
        for space in sorted(spaces, key=lambda space: (order.index(space.name) if space.name in order else len(order),
                                                       sp.default_sort_key(space))):
            bound, free = self.modes.bound_letter(space), self.modes.index_of(space)
            letter = f"${free}$" if free == bound or space not in summed else f"${bound}$ (${free}$ where it is free)"
            named = SPACE_WORDS.get(space.name, f"points of the space {space.name}")
            items.append(f"{letter} over the ${self.modes.doprint(space.size)}$ {named}")
        if not items:
            return ""
        return f"The {'indices run' if len(items) > 1 else 'index runs'}: {listing(items)}." if len(items) > 1 else (
            f"The index {items[0].replace(' over', ' runs over', 1)}.")

    # ------------------------------------------------------------------------------ steps
    def steps(self) -> Section | None:
        steps = self.derivation.steps
        if not steps:
            return None
        count, exact = len(steps), sum(bool(step.exact) for step in steps)
        rest = [number for number, step in enumerate(steps, 1) if not step.exact]
        standing = ("each of them exact" if exact == count else "none of which is exact" if exact == 0
                    else f"all exact but step {rest[0]}" if len(rest) == 1
                    else f"of which {exact} {'is' if exact == 1 else 'are'} exact")
        blocks: list[Any] = [f"The derivation takes {count} steps, {standing}."] if count > 1 else []
        for number, step in enumerate(steps, 1):
            blocks += self._step(number, step)
        return Section("Derivation", blocks)

    def _step(self, number: int, step: Any) -> list[Any]:
        text = f"**Step {number}: {words(step.rule)}.** {capital(sentence(step.description))} {self._standing(step)}"
        text = " ".join(filter(None, [text.rstrip(), self._substitution(step)]))
        definitions = step.definitions or {}
        if step.after is None or (step.before is not None and step.after.expr == step.before.expr
                                  and tuple(step.after.fields) == tuple(step.before.fields)):
            return [text, *self._definitions(self._new(definitions), "It introduces")]
        left = "The action becomes" if step.after.fields else "No field remains, and the action is a number,"
        return [f"{text} {left}", *self._with_definitions(step.after, definitions)]

    def _standing(self, step: Any) -> str:
        if step.exact:
            return ""
        if step.remainder is None:
            return "This step is an approximation whose remainder is not known."
        remainder = step.remainder
        if isinstance(remainder, sp.Order):
            remainder = remainder.expr
        if isinstance(remainder, sp.Basic):
            base, exponent = remainder.as_base_exp()
            shown = self.modes.doprint(base if base.is_Symbol else remainder)
            power = f"^{{{self.modes.doprint(exponent)}}}" if base.is_Symbol and exponent != 1 else ""
            remainder = f"$O({shown}{power})$"
        return sentence(f"This step is an approximation, with remainder {remainder}")

    def _substitution(self, step: Any) -> str:
        """The change of variables, where a step is one of single numbers."""
        pairs = [(old, new) for old, new in getattr(step, "substitution", {}).items()
                 if step.before is not None and old in step.before.fields and not open_spaces(old)]
        return f"Here {listing([f'${self._assignment(old, new)}$' for old, new in pairs])}." if pairs else ""

    def _assignment(self, symbol: sp.Basic, value: sp.Basic) -> str:
        return f"{self.modes.doprint(symbol)} = {self.modes.doprint(value)}"

    def _new(self, definitions: Mapping[sp.Basic, sp.Basic]) -> dict[sp.Basic, sp.Basic]:
        new = {name: value for name, value in definitions.items() if name not in self.defined}
        self.defined |= set(new)
        return new

    def _with_definitions(self, action: Any, definitions: Mapping[sp.Basic, sp.Basic]) -> list[Any]:
        new = self._new(definitions)
        return [self._action(action, end="," if new else "."), *self._definitions(new, "with")]

    def _action(self, action: Any, end: str = ".", style: str = "modes") -> Equation:
        names = ", ".join(self._field(field) for field in action.fields)
        return Equation(action.expr, left=rf"S\left[{names}\right]" if names else "S", end=end, style=style,
                        variables=(*action.fields, *getattr(action, "moving", ())))

    def _field(self, field: sp.Basic) -> str:
        return self.modes.bare(field) if isinstance(field, Entry) else self.modes.doprint(field)

    def _definitions(self, new: Mapping[sp.Basic, sp.Basic], opening: str) -> list[Any]:
        if not new:
            return []
        inline = [self._assignment(symbol, value) for symbol, value in new.items()]
        if all(tex_width(formula) < 25 for formula in inline):
            return [f"{opening} {listing([f'${formula}$' for formula in inline])}."]
        return [opening, *self._displays([Equation(value, left=self.modes.doprint(symbol))
                                          for symbol, value in new.items()])]

    # ------------------------------------------------------------------------------ results
    def equations(self) -> Section | None:
        derivation = self.derivation
        if not derivation.equations:
            return None
        blocks: list[Any] = []
        last = getattr(derivation, "last", None) or next(
            (step.after for step in reversed(derivation.steps) if step.after is not None), None)
        names = getattr(derivation, "names", {})
        if last is not None and self.modes.doprint(last.expr) != self.traces.doprint(last.expr):
            blocks += ["In the notation of matrices, with $K$ for the matrix whose eigenvalues are the $\\lambda_k$ "
                       "and vectors for what carries their index, the action is"
                       if re.search(r"\\lambda_\{?k", self.modes.doprint(last.expr))
                       else "In the notation of matrices the action is",
                       self._action(last, style="traces", end="," if names else "."), *self._named_sums(names)]
        names = [name_latex(name) for name, equation in derivation.equations.items()
                 if any(getattr(atom, "name", None) == name for atom in equation.atoms(sp.Symbol, Entry))]
        if len(names) == len(derivation.equations):
            unknown = listing([f"${name}$" for name in names])
            blocks.append(f"The unknowns {unknown} are determined by the equations of state" if len(names) > 1
                          else f"The unknown {unknown} is determined by the equation of state")
        else:
            blocks.append("The action is stationary where")
        shown = [Equation(self._arranged(equation), style="traces") for equation in derivation.equations.values()]
        blocks += self._displays(shown)
        clusters = getattr(derivation, "clusters", None)
        if clusters is not None and clusters.screened is not None:
            blocks.append(MEDIUM.format(form=self.modes.doprint(clusters.screened)))
        if clusters is not None and clusters.loops:
            blocks += [PAIR, Equation(clusters.pairs, left="S_2", style="traces", end="," if clusters.twins else "."),
                       *self._named_sums(clusters.twins), PAIR_LAW,
                       Equation(PAIR_ENERGY, left=r"E(\theta)", end=","), CHAINS]
        counting = [f"${self.modes.doprint(symbol)}$" for symbol in ORDERS
                    if any(equation.has(symbol) for equation in derivation.equations.values())]
        if counting:
            blocks.append(f"Here {counting[0]} counts loops; it is set to one.")
        return Section("Equations of state", blocks)

    def _named_sums(self, names: Mapping[sp.Basic, sp.Expr]) -> list[Any]:
        """Definitions of what is named for brevity, in the notation of matrices."""
        shown = [Equation(value, left=(self.traces if self.traces.is_vector(value) else self.modes).doprint(name),
                          style="traces") for name, value in names.items()]
        return ["with", *self._displays(shown)] if shown else []

    def predictions(self) -> Section | None:
        derivation = self.derivation
        results = getattr(derivation, "results", {})
        if not results:
            return None
        known = {eq.rhs: eq.lhs for eq in derivation.equations.values()
                 if isinstance(eq, sp.Equality) and isinstance(eq.lhs, sp.Symbol) and eq.rhs.has(SpaceSum)}
        abbreviations = {symbol: value.xreplace(known)
                         for symbol, value in getattr(derivation, "abbreviations", {}).items()}
        results = {name: value.xreplace(known) for name, value in results.items()}
        states = f"equation{'s' if len(derivation.equations) > 1 else ''} of state"
        blocks: list[Any] = [f"The following holds at a solution of the {states}."] if derivation.equations else []
        if abbreviations:
            blocks = [" ".join([*blocks, "It is written in terms of"]), *self._abbreviations(abbreviations)]
        if others := getattr(derivation, "others", {}):
            shown = [Equation(value, left=self.traces.doprint(datum), style="traces")
                     for datum, value in others.items()]
            blocks += ["At other data", *self._displays(shown)]
        clusters = getattr(derivation, "clusters", None)
        if clusters is not None and clusters.loops:
            blocks.append(PAIR_AVERAGES)
        for name in sorted(results.keys(), key=lambda name: (
                list(PREDICTIONS).index(name) if name in PREDICTIONS else 99, name)):
            blocks += self._prediction(name, results)
        return Section("Predictions", blocks)

    def _abbreviations(self, table: Mapping[sp.Symbol, sp.Expr]) -> list[Any]:
        long, short = [], []
        for symbol, value in table.items():
            left = self.modes.doprint(symbol)
            if value.is_Pow and value.exp == -1 and value.base.is_Add:
                left, value = rf"{left}^{{-1}}", 1 / value
            shown = Equation(self._arranged(value), left=left, style="traces")
            text = f"{left} = {self.traces.doprint(shown.expr)}"
            if tex_width(text) < 20:
                short.append(f"${text}$")
            else:
                long.append(shown)
        return [*(self._displays(long, end="," if short else ".")),
                *([f"{'and' if long else ''} {listing(short)}.".strip()] if short else [])]

    def _prediction(self, name: str, results: Mapping[str, sp.Expr]) -> list[Any]:
        left, caption = PREDICTIONS.get(name, ("", f"{capital(words(name))} is"))
        value, kernel = results[name], ""
        if name == "test_coefficients":
            value, kernel = _of_kernel(value, self._data())
        caption = caption.replace("{kernel}", kernel)
        whole = next((other for other in results if other != name and results[other] in sp.Mul.make_args(value)
                      and results[other].has(SpaceSum) and other in PREDICTIONS), None)
        if whole is not None:  # a multiple of another prediction is said to be one
            return [f"{caption} ${self.modes.doprint(value / results[whole])}\\,{PREDICTIONS[whole][0]}$."]
        for named, symbol in NAMED.items():
            if named in results and named != name:
                shown = in_terms_of(value, symbol, results[named], self.width, ORDERS)
                break
        else:
            shown = self._arranged(value)
        left = self._indexed(self.traces, left, shown)
        text = f"{left} = {self.traces.doprint(shown)}"
        if left and tex_width(text) < 16:
            return [f"{caption} ${text}$."]
        return [caption, Equation(shown, left=left or None, style="traces")]

    def _data(self) -> str:
        """The name of the data whose Gram matrix is the kernel: X, or features in place of it."""
        for step in self.derivation.steps:
            if step.rule == "diagonalise":
                gone = step.before.expr.atoms(Entry) - step.after.expr.atoms(Entry)
                found = sorted({entry.name for entry in gone if entry.domain == "data" and len(entry.spaces) == 2})
                if len(found) == 1:
                    return name_latex(found[0])
        return "X"

    def _arranged(self, expr: sp.Basic) -> sp.Basic:
        if any(map(is_average, sp.preorder_traversal(expr))):
            return expr  # as it comes from `abbreviated`
        return collected(expr, self.width, ORDERS)

    def width(self, expr: sp.Expr) -> float:
        return tex_width(self.traces.doprint(expr))

    @staticmethod
    def _indexed(printer: FieldPrinter, left: str, expr: sp.Basic) -> str:
        """A left side with the indices that the expression has."""
        spaces = sorted(open_spaces(expr), key=sp.default_sort_key)
        letters = "" if not spaces or printer.is_vector(expr) else " ".join(map(printer.index_of, spaces))
        index = f"_{{{letters}}}" if letters else ""
        if "index}" in left:
            return left.replace("{index}", letters).replace("{_index}", index)
        return left + index if left else left

    def _displays(self, equations: Sequence[Equation], end: str = ".") -> list[Any]:
        """Short equations in one display, long ones each in its own, punctuated as a list."""
        blocks: list[list[Equation]] = []
        for position, equation in enumerate(equations):
            last = position == len(equations) - 1
            equation = Equation(equation.expr, equation.left, equation.style, end if last else ",")
            printer = self.modes if equation.style == "modes" else self.traces
            short = len(printer.lines(equation.expr, self.line_length, equation.left)) == 1 and (
                equation.left is not None or (isinstance(equation.expr, sp.Equality) and equation.expr.rhs != 0))
            if short and blocks and blocks[-1][-1].label == "short":
                blocks[-1].append(equation)
            else:
                blocks.append([equation])
            blocks[-1][-1] = Equation(equation.expr, equation.left, equation.style, equation.end,
                                      "short" if short else None)
        unlabelled = [[Equation(e.expr, e.left, e.style, e.end) for e in block] for block in blocks]
        return [block[0] if len(block) == 1 else Display(block) for block in unlabelled]

    # ------------------------------------------------------------------------------ powers of N, remarks
    def counting(self) -> Section | None:
        counted = getattr(self.derivation, "power_counting", None)
        if counted is None:
            return None
        rows = counted.table() if hasattr(counted, "table") else counted
        if not rows:
            return None
        blocks: list[Any] = ["The table gives the power of the width with which each contribution grows, "
                             "found by dominant balance in the action."]
        assumptions = tuple(str(item) for item in getattr(counted, "assumptions", ()))
        blocks.append(Table(rows) if not isinstance(rows, str) else rows)
        if assumptions:
            blocks += ["The counting assumes the following.", assumptions]
        return Section("Powers of the width", blocks)

    def notes(self) -> Section | None:
        return Section("Remarks", [tuple(self.derivation.notes)]) if self.derivation.notes else None


def _of_kernel(value: sp.Expr, data: str) -> tuple[sp.Expr, str]:
    """Weights of X_* Xᵀ as weights of K_* = (σ_w²/D) X_* Xᵀ where that is what they are made for; what K_* is."""
    variance, dimension = sp.Symbol("sigma_w^2", positive=True), sp.Symbol("D", positive=True)
    rescaled = sp.Add(*(_divided(term, variance / dimension) for term in sp.Add.make_args(value)))
    if not value.free_symbols & {variance, dimension}:
        return value, "the kernel $K_*$ between test and training points"
    product = rf"{data}_* {data}^{{\top}}"
    if not rescaled.free_symbols & {variance, dimension}:
        return rescaled, rf"$K_* = \frac{{\sigma_w^2}}{{D}} {product}$"
    return value, f"$K_* = {product}$"


def _divided(term: sp.Expr, by: sp.Expr) -> sp.Expr:
    """A term over a product, brackets in the term divided part by part."""
    for factor in sp.Mul.make_args(term):
        if factor.is_Add and factor.free_symbols & by.free_symbols:
            rest = sp.Mul(*(f for f in sp.Mul.make_args(term) if f is not factor))
            return rest * sp.Add(*(part / by for part in factor.args))
    return term / by


__all__ = ["LINE_LENGTH", "Display", "Equation", "Section", "Table", "derivation_document", "document", "escape",
           "prose", "write_derivation"]
