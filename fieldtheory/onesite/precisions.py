r"""The order parameters of shared precisions, found from averages over one site.

v = n⟨w²⟩ determines the precision ℓ(v) of a site's field w, with 1/ℓ affine in v.  Plain iteration of v crawls where w
follows its prior: ⟨w²⟩ = 1/ℓ there, so that v moves by the small part of 1/ℓ that does not depend on it, and sampling
noise is amplified as much.  Two averages say the same,

    ⟨w²⟩ = ⟨w²⟩                     good where the data pin w,
    ⟨w²⟩ = (1 - ⟨x⟩)/ℓ(v)            good where they do not: the excess x = w ∂s/∂w - ℓ w² is zero there,

the second by the virial theorem, and so does any mixture.  The one with the smallest variance over the particles is
taken for each component; with ⟨w²⟩ and ⟨x⟩ given it is a linear equation for v.  Where w follows its prior, one step
gives v without noise.

Under the mean kernel C of the others the order of time scales matters.  At fixed C the inputs that are used have two
stable precisions, and the one that solves both equations lies between them; but C answers by so much (one neuron more
is a neuron less for the others) that at the C which belongs to each precision, the precision is stable.  So v follows
slowly there, by a relaxed explicit step (``rate``), and C stays with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import NotConverged, RuleError
from fieldtheory.onesite.particles import Coordinates, Grid, Particles
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.siteclosure import Shared

Array = np.ndarray
Averages = dict[str, Array]

RUNAWAY = 1e-6
"""The smallest and (inverse) largest ratio of a precision to that of an input which nothing is learned of."""


def number(expr: sp.Expr, values: Mapping[str, Any]) -> float:
    """A closed expression in symbols that have values."""
    found = expr.xreplace({symbol: sp.Float(values[symbol.name]) for symbol in expr.free_symbols})
    if not found.is_number:
        raise RuleError(f"{expr} is not a number once its parameters are")
    return float(found)


class Precision:
    """One order parameter of a shared law at some values; ``components`` are those of w in the coordinates."""

    def __init__(self, law: Shared, values: Mapping[str, Any], fields: tuple[Entry, ...]) -> None:
        self.name, self.label = law.parameter.name, law.field.name
        self.count = number(law.number, values)
        self.constant, self.slope = (number(part, values) for part in law.inverse)
        self.unlearned = number(law.unlearned, values)
        self.shape = tuple(int(values[space.size.name]) for space in law.parameter.spaces)
        sizes = [int(np.prod([values[space.size.name] for space in f.spaces])) for f in fields]
        start = sum(sizes[:fields.index(law.field)])
        self.components = slice(start, start + sizes[fields.index(law.field)])

    def variance(self, v: Array) -> Array:
        """1/ℓ(v), flat."""
        return self.constant + self.slope * np.ravel(v)

    def averages(self, sampler: Grid | Particles, v: Array) -> Averages:
        """Moments of w² and of its excess, under the law that the sampler has been brought to."""
        square = (sampler.points[:, self.components] * sampler.coordinates.scales[self.components])**2
        excess = sampler.points[:, self.components] * sampler.force[:, self.components] - square / self.variance(v)
        products = {"w": square, "x": excess, "ww": square**2, "wx": square * excess, "xx": excess**2}
        return {f"{self.name}|{key}": sampler.weights @ value for key, value in products.items()}

    def plain(self, sampler: Grid | Particles) -> Array:
        """v of the particles where they are."""
        square = (sampler.points[:, self.components] * sampler.coordinates.scales[self.components])**2
        return (self.count * (sampler.weights @ square)).reshape(self.shape)

    def solve(self, averages: Mapping[str, Array], before: Array, rate: float | None = None) -> Array:
        """v from averages taken under laws near that at ``before``; with a rate, this part of the way."""
        w, x, ww, wx, xx = (averages[f"{self.name}|{key}"] for key in ("w", "x", "ww", "wx", "xx"))
        old = 1 / self.variance(before)
        with_virial = old * (ww - w**2) + wx - w * x  # covariance of w² and the virial z = ℓ w² + x
        spread = old**2 * (ww - w**2) + 2 * old * (wx - w * x) + xx - x**2
        share = np.clip(old * with_virial / np.maximum(spread, 1e-300), 0.0, 1.0)
        v = self.count * ((1 - share) * w + share * (1 - x) / old)
        if rate is None:
            linear = self.count * share * (1 - x) * self.slope
            source = self.count * ((1 - share) * w + share * (1 - x) * self.constant)
            implicit = linear < 1 - 1e-3
            v = np.where(implicit, source / np.where(implicit, 1 - linear, 1.0), v)
        unlearned = self.constant + self.slope * self.unlearned
        largest = (unlearned / RUNAWAY - self.constant) / self.slope if self.slope > 0 else np.inf
        v = np.clip(v, 1e-12 * self.unlearned, largest)
        if rate is not None:
            v = np.ravel(before) * (v / np.ravel(before))**rate
        return v.reshape(self.shape)

    def check(self, v: Array) -> None:
        """Refuse a precision that has run away.

        Raises
        ------
        NotConverged
            Naming the components.
        """
        ratio = self.variance(v) / (self.constant + self.slope * self.unlearned)
        bad = np.flatnonzero(~((ratio > RUNAWAY) & (ratio < 0.99 / RUNAWAY)))
        if len(bad):
            inputs = ", ".join(map(str, bad[:8]))
            raise NotConverged(f"the precision of {self.label} runs away for inputs {inputs}: its prior (alpha0, "
                               "beta0) does not hold it; larger alpha0 does, or beta0 near alpha0 weight_variance/D",
                               float(np.max(ratio)))


def fit(coordinates: Coordinates, precisions: Mapping[str, Precision], environment: Mapping[str, Array]) -> Coordinates:
    """Coordinates where the prior at this environment has unit variance."""
    scales = coordinates.scales.copy()
    for name, precision in precisions.items():
        scales[precision.components] = np.sqrt(precision.variance(environment[name]))
    return Coordinates(coordinates.shapes, scales)


__all__ = ["Precision", "fit", "number"]
