"""Derivations of the linear network, step by step, for tests of the rules and of ``verify``.

Rules are reached through their module, so that a test can plant an error in one.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from fieldtheory.derivation import Derivation
from fieldtheory.symbolic import rotation, rules
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, sum_over
from fieldtheory.symbolic.rules import FieldAction, Step

N, D, P, T = sp.symbols("N D P T", positive=True)
g, s, variance = sp.symbols("g s sigma_w2", positive=True)
site, inputs, sample, mode, test = (Space("site", N), Space("input", D), Space("sample", P), Space("mode", P),
                                    Space("test", T))
a = Entry("a", "real", (site,))
w = Entry("w", "real", (site, inputs))
f = Entry("f", "real", (sample,))
j = Entry("j", "imaginary", (sample,))
X = Entry("X", "data", (sample, inputs))
X_test = Entry("X_test", "data", (test, inputs))
y = Entry("y", "data", (sample,))
probe = Entry("v", "data", (sample,))
spectrum = Entry("lambda", "spectrum", (mode,))
test_modes = Entry("T", "data", (test, mode))
Q, u, h = Entry("Q", "positive"), Entry("u", "real"), Entry("h", "imaginary")

hidden = SpaceSum(X * w, inputs)
output = SpaceSum(a * hidden, site)
norm = SpaceSum(a**2, site)
OBSERVABLES = {
    "output": SpaceSum(probe * output, sample),
    "squared_output": SpaceSum(probe * output, sample)**2,
    "test_output": SpaceSum(a * SpaceSum(X_test * w, inputs), site),
    "hidden_kernel": SpaceSum(SpaceSum(probe * hidden, sample)**2, site) / N,
    "norm": norm,
    "squared_norm": norm**2,
}


def microscopic() -> FieldAction:
    """S[a, w] with all constants: priors and likelihood are normalised."""
    expr = (SpaceSum(N * a**2 / (2 * g) + sp.log(2 * sp.pi * g / N) / 2, site)
            + sum_over(w**2 * D / (2 * variance) + sp.log(2 * sp.pi * variance / D) / 2, (inputs, site))
            + SpaceSum((y - output)**2 / (2 * s) + sp.log(2 * sp.pi * s) / 2, sample))
    return FieldAction(expr, (a, w))


def _chain(action: FieldAction, *moves: Callable[[FieldAction], Step]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for move in moves:
        steps.append(move(steps[-1].after if steps else action))
    return tuple(steps)


def _out(name: str) -> Callable[[FieldAction], Step]:
    return lambda action: rules.integrate_out(action, action.find(name))


def _diagonalise(action: FieldAction) -> Step:
    return rotation.diagonalise(action, X, sample, mode, spectrum=spectrum, scale=D / variance,
                             projections={X_test: test_modes})


def _name_output(action: FieldAction) -> Step:
    return rules.introduce(action, f, output, j)


def conjugate_view() -> Derivation:
    """Hidden weights, then readout, then output: the action in the conjugate output."""
    steps = _chain(microscopic(), _name_output, _out("w"), _diagonalise, _out("a"), _out("f"))
    return Derivation("conjugate output", "a linear network", steps, OBSERVABLES)


def rescaling_view() -> Derivation:
    """The action in u = ln Q, Q = Σ a²: hidden weights, readout, conjugate of Q, output, its conjugate."""
    steps = _chain(microscopic(), _name_output, _out("w"), _diagonalise,
                   lambda A: rules.introduce(A, Q, norm, h), _out("a"),
                   lambda A: rules.integrate_conjugate(A, h), _out("f"), _out("j"),
                   lambda A: rules.change_variable(A, Q, u, sp.exp(u)))
    return Derivation("order parameter", "a linear network", steps, OBSERVABLES)


def site_view() -> Derivation:
    """Independent sites factorised, then integrated one by one: the conjugate view again."""
    steps = _chain(microscopic(), _name_output, lambda A: rules.factorise(A, site),
                   lambda A: rules.integrate_site(A, Entry("w", "real", (inputs,))),
                   lambda A: rules.integrate_site(A, Entry("a")), _diagonalise, _out("f"))
    return Derivation("site by site", "a linear network", steps)


def rank_two() -> Derivation:
    """Gaussian fields over modes with couplings of low rank, a real one (rank two) and an imaginary one."""
    x, z, c = (Entry(name, "data", (mode,)) for name in "xzc")
    phi, psi = Entry("phi", "real", (mode,)), Entry("psi", "imaginary", (mode,))
    alpha, beta = sp.symbols("alpha beta", positive=True)
    first, second = SpaceSum(x * phi, mode), SpaceSum(z * phi, mode)
    expr = (SpaceSum(spectrum * phi**2 / 2 + phi * c, mode) + alpha * (first**2 + first * second) + beta * second**2
            - SpaceSum(spectrum * psi**2 / 2 - psi * x, mode) - alpha * SpaceSum(psi * z, mode)**2)
    steps = _chain(FieldAction(expr, (phi, psi)), _out("phi"), _out("psi"))
    return Derivation("low rank", "", steps, {"linear": SpaceSum(c * phi, mode), "product": first * second,
                                              "square": SpaceSum(phi**2 * x, mode)})


def sum_of_squares() -> Derivation:
    """The law of Q = Σ a² when its conjugate enters with a constant: a branch point off the origin."""
    expr = N * sp.log(N / g - 2 * h) / 2 + h * Q + Q**2 / 2
    steps = _chain(FieldAction(expr, (Q, h)), lambda A: rules.integrate_conjugate(A, h))
    return Derivation("a sum of squares", "", steps, {"Q": Q})


def wide_limit() -> Derivation:
    """The conjugate view to leading order in 1/N with everything else fixed: a Gaussian process."""
    steps = conjugate_view().steps
    return Derivation("wide", "", (*steps, rules.leading_order(steps[-1].after, N)))


DERIVATIONS = (conjugate_view, rescaling_view, site_view, rank_two, sum_of_squares, wide_limit)
