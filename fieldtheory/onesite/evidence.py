r"""ln ∫e^{-s} over one site by thermodynamic integration, where quadrature is out of reach.

With the prior's Gaussian s_0 in the coordinates of the particles and s_t = s_0 + t (s - s_0),

    ln ∫e^{-s} = ln ∫e^{-s_0} - ∫_0^1 dt ⟨s - s_0⟩_t,

by Gauss-Legendre nodes in u with t = u³: the average changes fastest near t = 0, where the law is wide.  Particles go
down from the law they were left in, under a frozen environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fieldtheory.onesite.particles import Particles

if TYPE_CHECKING:
    from fieldtheory.onesite.environment import Ensemble, Environment

NODES = 24
SWEEPS = 24


def log_integral(environment: Environment, values: dict[str, Any], ensemble: Ensemble, seed: int, *,
                 nodes: int = NODES, sweeps: int = SWEEPS) -> float:
    """ln ∫dθ e^{-s} under the environment of an ensemble of particles; a third of the sweeps at each node settles."""
    assert isinstance(ensemble.sampler, Particles)
    run = environment.dynamics.bind(values | ensemble.environment)
    coordinates, scales = ensemble.sampler.coordinates, ensemble.sampler.coordinates.scales
    sampler = Particles(coordinates, len(ensemble.sampler.points), np.random.SeedSequence([seed, 2]))
    sampler.begin(ensemble.sampler)
    u, w = np.polynomial.legendre.leggauss(nodes)
    u = (u + 1) / 2
    integral = 0.0
    for t, weight in sorted(zip(u**3, w / 2 * 3 * u**2, strict=True), reverse=True):
        total = 0.0
        for sweep in range(sweeps):
            sampler.adapting = sweep < sweeps // 3
            sampler.update(run, float(t))
            if not sampler.adapting:
                s = run(sampler.fields)["energy"]
                total += float((s - (sampler.points**2).sum(axis=1) / 2).mean())
        integral += weight * total / (sweeps - sweeps // 3)
    return float(np.log(scales).sum() + len(scales) * np.log(2 * np.pi) / 2 - integral)


__all__ = ["log_integral"]
