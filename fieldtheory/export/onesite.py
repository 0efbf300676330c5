r"""A derivation with the abbreviations a reader wants: the activation φ, data that belong together, repeated sums.

They are found by `fieldtheory.symbolic.abbreviations`; here it is said where they are introduced.  What comes out is
again what `fieldtheory.export.latex` writes: steps, equations, results, and ``names`` of the last action.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import sympy as sp

from fieldtheory.symbolic.abbreviations import Mean, features, merged, renamed, shown_means, simplest, sums
from fieldtheory.symbolic.arrange import collected, is_average
from fieldtheory.symbolic.fields import Entry, SpaceSum, distribute, tidy

Width = Callable[[sp.Expr], float]

PROBES = ("probed_output", "probed_output_squared")
"""Averages that only serve to find others."""

MEDIUM = ("Here ${form}$ are the eigenvalues, in the basis $V$, of the form of a site as the others screen it; "
          "$\\kappa$ belongs to the medium in which a site leaves the resolvent as it is on average.")
PAIR = "Two sites in $N - 2$ media have the action"
PAIR_LAW = (r"With $S_1$ the action of one site above and $S_0$ that of none, in $N$ media, the energy of a pair is "
            r"$s_2 = S_2 - S_1 - S_1' + S_0$. With $\theta$ for the fields of a site its law is that of the energy")
PAIR_ENERGY = (r"S_1(\theta) + (N - 1) \langle s_2(\theta, \theta')\rangle_{\theta'} - \frac{N - 1}{2} \left[v \, p "
               r"\left(1 + (N - 1) v \, p\right)^{-1} v\right](\theta, \theta)")
CHAINS = (r"where $p \propto e^{-E}$, as an operator diagonal in $\theta$, and $v$ is $s_2$ less its means over $p$: "
          "the chains of pairs that close on the site. Averages over one site are over this law.")
PAIR_AVERAGES = (r"Of what depends on the conjugate of the output, such as the output itself, the following is the "
                 r"average of $O_1$, for one site in its medium; with $O_n$ for $n$ sites in $N - n$ media, "
                 r"$\langle O\rangle = O_0 + N \langle O_1 - O_0\rangle + \frac{1}{2} N (N - 1) "
                 r"\langle O_2 - O_1 - O_1' + O_0\rangle$, the last average over the law of a pair.")
"""What is said of media and pairs of sites, which are solved for numerically (`fieldtheory.onesite.clusters`)."""


def abbreviated(derivation: Any, width: Width) -> Any:
    """The derivation with names in it; the same one where there is nothing to name.

    ``names`` of the result are those of sums, for all that comes after the last action; names of data and of the
    activation are definitions of the steps that they first occur in.
    """
    steps = [step for step in derivation.steps if step.before is not None]
    output = derivation.observables.get("output")
    if not steps or output is None:
        return derivation
    actions = [action for step in steps for action in (step.before, step.after) if action is not None]
    fields = {field for action in actions for field in action.fields if isinstance(field, Entry)}
    results = {name: expr for name, expr in getattr(derivation, "results", {}).items() if name not in PROBES}
    equations = dict(derivation.equations)
    others, clusters = _elsewhere(derivation), _clusters(derivation)
    if clusters is not None:
        fields |= clusters.twins
        equations |= clusters.equations
        others |= clusters.others
    shown = [*(action.expr for action in actions), *derivation.observables.values(), *results.values(),
             *equations.values(), *others.values(), *([clusters.pairs] if clusters else ())]
    taken = {atom.name for expr in shown for atom in expr.atoms(sp.Symbol, Entry)}
    values = features(output, shown, fields, taken)
    closed = any(is_average(node) for expr in (*results.values(), *equations.values())
                 for node in sp.preorder_traversal(expr))
    if not values and not closed:
        return derivation
    fields |= set(values.values())
    unknowns = {equation.lhs for equation in equations.values() if isinstance(equation, sp.Equality)}
    residuals: dict[Any, tuple[Entry, sp.Expr]] = {}

    def named(expr: Any) -> Any:
        return renamed(expr, values)

    def joined(expr: Any) -> Any:
        return merged(named(expr), fields, unknowns, residuals, taken) if closed else named(expr)

    def definitions(expr: Any) -> dict[Any, Any]:
        """Of names that occur in an expression."""
        made = {name: node for node, name in values.items()} | dict(residuals.values())
        return {name: value for name, value in made.items() if name in expr.atoms(Entry)}

    def action(given: Any) -> Any:
        if given is None:
            return None
        expr = joined(given.expr)
        if closed and given is not steps[0].before:
            expr = collected(expr, width)
        return SimpleNamespace(expr=expr, fields=given.fields, moving=tuple(values.values()),
                               definitions={**getattr(given, "definitions", {}), **definitions(expr)})

    def step(given: Any) -> Any:
        after = action(given.after)
        added = definitions(after.expr) if after is not None else {}
        return SimpleNamespace(rule=given.rule, description=given.description, exact=given.exact,
                               remainder=given.remainder, before=action(given.before), after=after,
                               substitution=getattr(given, "substitution", {}), details=getattr(given, "details", {}),
                               definitions={**(given.definitions or {}), **added})

    made = [step(given) for given in derivation.steps]
    found = SimpleNamespace(title=derivation.title, network_description=derivation.network_description, steps=made,
                            observables={name: named(expr) for name, expr in derivation.observables.items()},
                            abbreviations=getattr(derivation, "abbreviations", {}), notes=derivation.notes,
                            power_counting=getattr(derivation, "power_counting", None), equations=equations,
                            results=results, names={}, last=None, others={}, clusters=None,
                            made={name: node for node, name in values.items()})
    last = next((given.after for given in reversed(made) if given.after is not None), None)
    if not closed or last is None:
        found.equations = {name: named(expr) for name, expr in equations.items()}
        found.results = {name: named(expr) for name, expr in results.items()}
        return found
    law = collected(last.expr, width)
    equations = {name: sp.Eq(eq.lhs, collected(joined(shown_means(eq.rhs)), width), evaluate=False)
                 for name, eq in equations.items()}
    results = {name: collected(joined(shown_means(expr)), width) for name, expr in results.items()}
    wanted = sp.Tuple(*results.values()).atoms(Entry)
    others = {datum: collected(joined(shown_means(expr)), width) for datum, expr in others.items() if datum in wanted
              or not isinstance(datum, Entry)}
    pairs = collected(named(clusters.pairs), width) if clusters else sp.S.Zero
    repeated = [law, *equations.values(), *results.values(), *others.values(), pairs]
    names = sums(repeated, fields, width,
                 {*taken, *(name.name for name in values.values()), *(name.name for name, _ in residuals.values())})
    found.names = {name: total for total, name in names.items()}
    moving = {*fields, *names.values()}
    found.last = SimpleNamespace(expr=renamed(law, names), fields=last.fields, definitions={},
                                 moving=(*values.values(), *names.values()))

    def short(expr: Any) -> Any:
        return simplest(renamed(expr, names), moving, width)

    found.equations = {name: sp.Eq(eq.lhs, short(eq.rhs), evaluate=False) for name, eq in equations.items()}
    found.results = {name: short(expr) for name, expr in results.items()}
    found.others = {datum: short(expr) for datum, expr in others.items()}
    if clusters:
        second = {name: node for node, name in values.items() if "'" in name.name and name in pairs.atoms(Entry)}
        found.clusters = SimpleNamespace(loops=clusters.loops, screened=clusters.screened, twins=second,
                                         pairs=renamed(pairs, names))
    return found


def _elsewhere(derivation: Any) -> dict[Entry, sp.Expr]:
    """What stands for the order parameters and the kernel at other data, as averages over one site."""
    found: dict[Entry, sp.Expr] = {}
    for position, step in enumerate(derivation.steps):
        details, later = getattr(step, "details", {}), derivation.steps[position + 1:]
        last = derivation.steps[-1].after
        for datum, body in dict(details.get("observed", {})).items():
            for other in later:
                body = other.push(body)
            found[datum] = Mean(body, sp.Tuple(*last.fields))
        for datum, pairs in dict(details.get("projections", {})).items():
            if "kernel" in details and "basis" in details:  # of a cavity
                basis = details["basis"]
                found[datum] = Mean(distribute(sp.Add(*(u * SpaceSum(basis * v, basis.spaces[0]) for u, v in pairs))),
                                    sp.Tuple(*last.fields))
    return found


def _clusters(derivation: Any) -> Any:
    """What the medium and pairs of sites change in the equations of a cavity; None where neither is there."""
    step = next((step for step in derivation.steps if step.rule == "fluctuation"), None)
    if step is None:
        return None
    details = step.details
    kappa, N = details["spectrum"], details["space"].size
    fields = tuple(derivation.steps[-1].after.fields)
    twins, features = dict(details["twins"]), dict(details["features"])
    made = features | {twins[psi]: expr.xreplace(twins) for psi, expr in features.items()}
    found = SimpleNamespace(loops=int(details["loops"]), equations={}, others={}, screened=None, pairs=sp.S.Zero,
                            twins={twin for field, twin in twins.items() if field in fields})
    screening = tidy(details["screening"].replace(
        lambda node: node.is_Pow and node.exp == -1 and node.base.is_Add and node.base.could_extract_minus_sign(),
        lambda node: -1 / -node.base))
    if str(details["resolvent"]) != "mean":
        equation = derivation.equations[kappa.name]
        r = Entry(str(details["screened"]), "spectrum", kappa.spaces)
        medium = sp.factor(details["medium"]).xreplace({details["screened"]: r})
        bodies = {expr: datum for datum, expr in _elsewhere(derivation).items()}
        found.equations = {r.name: sp.Eq(r, Mean(equation.rhs.args[0] / (N - 1) / screening,
                                                 sp.Tuple(*fields)), evaluate=False),
                           kappa.name: sp.Eq(kappa, medium, evaluate=False)}
        found.others = {datum: kappa / ((N - 1) * r) * Mean(expr.args[0] / screening, expr.args[1])
                        for expr, datum in bodies.items()}
        found.screened = r
    if found.loops:
        # n sites are kept in N - n media, each of them 1/(N - 1) of the spectrum
        S = [energy.xreplace({kappa: (N - n) / (N - 1) * kappa}).xreplace(made)
             for n, energy in enumerate(details["energies"])]
        found.pairs = S[2]
    return found


__all__ = ["abbreviated"]
