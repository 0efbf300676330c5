"""Averages over the inputs on whitened weights u_j = w_j √λ_j, and how they move with the precisions.

Inputs fall into *classes* that share a mean precision λ: on the hypercube those of the parity and the rest, under
Gaussian inputs each relevant axis and the rest.  One set of nodes for u serves every λ; the overlaps J and the other
averages there are compiled together with their derivatives by ln λ of each class, so that a free energy written in them
has an exact gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel
from fieldtheory.errors import RuleError
from fieldtheory.population import directions
from fieldtheory.population.arguments import check_dimension
from fieldtheory.population.modes import Mode
from fieldtheory.population.nodes import (
    _FEW_HERMITE,
    _HERMITE,
    EXACT,
    NODE,
    U,
    _closed,
    _compiled,
    _of_one,
    _points,
    orthant,
    smoothed,
)
from fieldtheory.symbolic.averages import GaussianAverage, average
from fieldtheory.symbolic.bases import InputAverage, directional_overlap, parity_part
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum

Array = np.ndarray

FAR = Space("far", sp.Symbol("N_far", positive=True))
"""Corners of the cube of the other inputs (or nodes of a Gaussian in their place)."""


class Whitened(ABC):
    """The classes of inputs of a law, and the averages over it on whitened nodes.

    ``counts`` are the inputs of each class, of which there are ``size`` in all; ``precisions`` the mean precisions.
    Nodes hold their weight W and the power sums q_p of the whitened weights of each class.
    """

    counts: Mapping[str, sp.Expr]

    def __init__(self, activation: sp.Expr, overlaps: Mapping[Mode, Entry], averages: Mapping[InputAverage, Entry],
                 size: sp.Symbol) -> None:
        self.activation, self.overlaps, self.averages, self.size = activation, dict(overlaps), dict(averages), size
        self.counts = self._counts()
        self.precisions = {name: sp.Symbol(f"lambda_{name}", positive=True) for name in self.counts}
        self._kernels: dict[Any, Kernel] = {}

    @property
    @abstractmethod
    def least(self) -> int:
        """The fewest inputs there may be."""

    @abstractmethod
    def _counts(self) -> Mapping[str, sp.Expr]:
        """The inputs of each class."""

    @abstractmethod
    def draw(self, D: int, relevant_only: bool | None, count: int, shifts: int,
             seed: int) -> tuple[Kernel, list[dict[str, Any]]]:
        """The averages and their derivatives (``…_class``) as a kernel of the precisions, and nodes by shift."""

    def unwhitened(self, given: Mapping[str, Any], precisions: Mapping[str, float]) -> dict[str, Any]:
        """Nodes under Gaussian inputs at some precisions ``lambda_…``, as :func:`.directions.draw` gives them.

        Raises
        ------
        RuleError
            On the hypercube.
        """
        raise RuleError("nodes are directions and a norm under Gaussian inputs only")

    def dimension(self, D: int) -> int:
        """D, if there may be as many inputs.

        Raises
        ------
        BadInput
            If there may not.
        """
        check_dimension(D, self.least)
        return D

    def present(self, D: int) -> tuple[str, ...]:
        """The classes that have inputs."""
        return tuple(name for name, count in self.counts.items() if count.xreplace({self.size: sp.Integer(D)}) > 0)

    def in_whitened(self, power: sp.Integer) -> sp.Expr:
        """Σ w^p."""
        return sp.Add(*(precision**(-power / 2) * Entry(f"q_{power}_{name}", "data", (NODE,))
                        for name, precision in self.precisions.items()))


class Cube(Whitened):
    """A parity on the hypercube: its inputs and the rest."""

    @property
    def order(self) -> int:
        ((order,),) = (mode.orders for mode in self.overlaps)
        return order

    @property
    def least(self) -> int:
        return self.order

    def _counts(self) -> Mapping[str, sp.Expr]:
        return {"relevant": sp.Integer(self.order), "rest": self.size - self.order}

    def _closed_form(self) -> bool:
        """Whether every average over a Gaussian rest is known in closed form."""
        functions = [_part(self.activation, self.order)]
        functions += [_part(_of_one(node), 0) for node in self.averages]
        return all(smoothed(f, sp.Symbol("rho", positive=True)) is not None for f in functions)

    def _kernel(self, closed: bool) -> Kernel:
        if closed not in self._kernels:
            near, far = self.precisions.values()
            rest, one = Entry("far", "data", (NODE, FAR)), Entry("one", "data", (FAR,))
            rho, size = Entry("rho", "positive", (NODE,)), sp.Symbol("rho", positive=True)
            functions = {entry.name: (True, self.activation) for entry in self.overlaps.values()}
            functions |= {entry.name: (False, _of_one(node)) for node, entry in self.averages.items()}
            half = list(product((1, -1), repeat=self.order))[:2**(self.order - 1)]  # the others by x → -x
            outputs: dict[str, sp.Expr] = {}
            for name, (signed, function) in functions.items():
                inside = _part(function, self.order if signed else 0)
                inside = smoothed(inside, size) if closed else inside
                assert inside is not None
                slope = continuous(sp.diff(inside, U))
                for corner, signs in enumerate(half):
                    u = Entry(f"near_{corner}", "data", (NODE,)) / sp.sqrt(near)
                    if closed:
                        table = {U: u, size: rho / sp.sqrt(far)}
                        bodies = {"": inside.xreplace(table), "_relevant": -u * slope.xreplace(table) / 2,
                                  "_rest": (-size * sp.diff(inside, size) / 2).xreplace(table)}
                    else:
                        h = rest / sp.sqrt(far)
                        bodies = {"": SpaceSum(one * inside.xreplace({U: u + h}), FAR),
                                  "_relevant": -u * SpaceSum(one * slope.xreplace({U: u + h}), FAR) / 2,
                                  "_rest": -SpaceSum(one * h * slope.xreplace({U: u + h}), FAR) / 2}
                    weight = sp.Rational(prod(signs) if signed else 1, len(half))
                    for suffix, body in bodies.items():
                        outputs[name + suffix] = outputs.get(name + suffix, sp.S.Zero) + weight * body
            self._kernels[closed] = _compiled(outputs)
        return self._kernels[closed]

    def draw(self, D: int, relevant_only: bool | None, count: int, shifts: int,
             seed: int) -> tuple[Kernel, list[dict[str, Any]]]:
        only = D > EXACT if relevant_only is None else bool(relevant_only)
        radial = only and self.order != D
        rng = np.random.default_rng(seed)
        return (self._kernel(radial and self._closed_form()),
                [self._nodes(D, radial, count, rng) for _ in range(shifts)])

    def _nodes(self, D: int, radial: bool, count: int, rng: np.random.Generator) -> dict[str, Any]:
        k = self.order
        nodes, norms, weights = orthant(_components(k, D), k, 0 if radial else D - k, D - k, count, rng)

        def corners(n: int) -> Array:
            return np.array(list(product((1.0, -1.0), repeat=n))).reshape(2**n, n)

        z, q = _FEW_HERMITE
        far = np.outer(norms, z) if radial else nodes[:, k:] @ corners(D - k).T
        given: dict[str, Any] = {"W": weights / weights.sum(), "far": far, "rho": norms,
                                 "one": q if radial else np.full(2**(D - k), 0.5**(D - k))}
        given |= {f"near_{c}": column for c, column in enumerate((nodes[:, :k] @ corners(k)[:2**(k - 1)].T).T)}
        given |= {f"q_{p}_relevant": (nodes[:, :k]**p).sum(axis=1) for p in range(2, 9)}
        given |= {f"q_{p}_rest": (nodes[:, k:]**p).sum(axis=1) for p in range(3, 9)}
        given["q_2_rest"] = norms**2 if radial else (nodes[:, k:]**2).sum(axis=1)
        return given


class Axes(Whitened):
    """Gaussian inputs: every relevant direction is the axis of one input, and the rest."""

    @property
    def directions(self) -> int:
        return len(next(iter(self.overlaps)).orders)

    @property
    def least(self) -> int:
        return self.directions + 1

    def _counts(self) -> Mapping[str, sp.Expr]:
        names = ["relevant"] if self.directions == 1 else [f"relevant_{a + 1}" for a in range(self.directions)]
        return {**dict.fromkeys(names, sp.S.One), "rest": self.size - self.directions}

    def draw(self, D: int, relevant_only: bool | None, count: int, shifts: int,
             seed: int) -> tuple[Kernel, list[dict[str, Any]]]:
        del relevant_only  # what is perpendicular to the axes is one Gaussian as it stands
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(shifts):
            weights, along, rest = directions.whitened(tuple(self.overlaps), D, partial(_points, rng=rng), count)
            given = {"W": weights / weights.sum(), "z": _HERMITE[0], "q": _HERMITE[1], "n_perp": float(D - len(along))}
            for name, u in zip(self.counts, (*along, rest), strict=True):
                given |= {f"u_{name}": u, f"q_2_{name}": u**2}
            found.append(given)
        return self._kernel, found

    def unwhitened(self, given: Mapping[str, Any], precisions: Mapping[str, float]) -> dict[str, Any]:
        """Nodes as :func:`.directions.draw` gives them, at some precisions ``lambda_…``."""
        *along, rest = (given[f"u_{name}"] / np.sqrt(precisions[f"lambda_{name}"]) for name in self.counts)
        size = np.sqrt(sum(w**2 for w in (*along, rest)))
        return {"W": given["W"], "r": size, "rho2": (rest / size)**2, "n_perp": given["n_perp"],
                **{f"tau_{a}": w / size for a, w in enumerate(along)}}

    @property
    def _kernel(self) -> Kernel:
        """Each average depends on |w|, through a Hermite coefficient, and on the direction of w."""
        if "axes" not in self._kernels:
            size, radius = sp.Symbol("r", positive=True), sp.Symbol("R", positive=True)  # |w|, where it is which
            weights = {name: sp.Symbol(f"w_{name}", real=True) for name in self.counts}
            *along, rest = weights.values()

            def overlap(mode: Mode, function: sp.Expr) -> sp.Expr:
                return directional_overlap(function, U, mode.orders, mode.pairs, size, [w / radius for w in along],
                                           rest**2 / radius**2, sp.Symbol("n_perp", positive=True))

            averages: dict[str, tuple[sp.Expr, Callable[[sp.Expr], sp.Expr]]]
            averages = {entry.name: (self.activation, partial(overlap, mode)) for mode, entry in self.overlaps.items()}
            averages |= {entry.name: (_of_one(node), lambda function: average(function, [U], [[size**2]]))
                         for node, entry in self.averages.items()}
            outputs: dict[str, sp.Expr] = {}
            for name, (function, taken) in averages.items():
                exact = taken(function)
                if exact.has(GaussianAverage):  # r d/dr E f(rz) = E u f'(u)
                    stretched = _closed(taken(continuous(U * sp.diff(function, U))), size)
                else:
                    stretched = size * sp.diff(exact, size)
                outputs[name] = whole = _closed(exact, size)
                for label, w in weights.items():
                    turned = w * sp.diff(whole, w) + w**2 / radius * sp.diff(whole, radius)
                    outputs[f"{name}_{label}"] = -(w**2 / radius**2 * stretched + turned) / 2
            table = {w: Entry(f"u_{name}", "data", (NODE,)) / sp.sqrt(self.precisions[name])
                     for name, w in weights.items()}
            norm = sp.sqrt(sp.Add(*(w**2 for w in table.values())))
            table |= {size: norm, radius: norm}
            self._kernels["axes"] = _compiled({name: expr.xreplace(table) for name, expr in outputs.items()})
        return self._kernels["axes"]


KINDS: Mapping[str, type[Whitened]] = {"hypercube": Cube, "gaussian": Axes}
"""By the name of the law of the inputs."""


def _part(function: sp.Expr, parity: int) -> sp.Expr:
    """The even or odd part of a function of U, real as it stands."""
    found = parity_part(function, U, parity)
    return (function + (-1)**parity * function.xreplace({U: -U})) / 2 if found.has(sp.I) else found


def continuous(slope: sp.Expr) -> sp.Expr:
    """The slope of a continuous function of U, in which δ(U) stands beside what vanishes there."""
    terms = sp.Add.make_args(sp.expand(slope))
    for term in terms:
        if any((delta.args[0] / U).has(U) for delta in term.atoms(sp.DiracDelta)) or (
                term.has(sp.DiracDelta) and term.replace(sp.DiracDelta, lambda *_: sp.S.One).xreplace({U: sp.S.Zero})):
            raise RuleError(f"the slope of the activation holds {term}: the free energy of an activation that jumps is "
                            "not smooth in the weights (on the hypercube relevant_only averages over the rest)")
    return sp.Add(*(term for term in terms if not term.has(sp.DiracDelta)))


def _components(k: int, D: int) -> list[tuple[float, float, float]]:
    """As for the fixed prior, but in units of the deviation at the present precision: weights grow with it."""
    found = {(0.0, 1.0, 1.0), (0.0, 1.5, 1.0), (0.0, 1.0, 0.7), (0.0, 0.5, 1.0)}
    found |= {(omega, width, 1.0) for omega in (0.5, 0.8, 1.1, 1.5, 2.0) for width in (0.15, 0.4)}
    found |= {(omega, 1.0, 1.0) for omega in (1.0, 2.0)}
    far = (D / k)**0.5
    found |= {(float(omega), 0.4, 0.7) for omega in np.arange(1.0, 1.3 * far + 0.5, max(0.5, far / 6))}
    return sorted(found)


__all__ = ["KINDS", "Axes", "Cube", "Whitened", "continuous"]
