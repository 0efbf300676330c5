"""Kernel rescaling for any activation: the features of a site keep their second moment, the readout's norm is kept.

With Gaussian features the network is a linear one on data F whose Gram matrix is the kernel of the features, and the
number Q = Σ_i a_i² that rescales this kernel is found as in the linear network (Li and Sompolinsky 2021,
arXiv 2012.04030; Pacelli et al. 2023, arXiv 2209.04882).  No direction is learned, by construction.
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network, *, loops: int = 1) -> ft.Theory:
    """Gaussian features, and the saddle in Q with loops about it: the kernel of the features, rescaled."""
    S = net.plain("kernel rescaling", bias=True).action()
    S = S.conjugate("f", "output", conjugate="j")
    S = S.gaussian_features("w", features="F", latent="z", projections={"X_*": "F_*"})
    S = S.integrate_out("z")
    S = S.diagonalise("F", modes="mode", spectrum="lambda", variance=S.last["variance"], projections={"F_*": "T"})
    S = S.introduce("Q", "readout_norm", conjugate="h", domain="positive")
    S = S.integrate_out("a")
    S = S.integrate_conjugate("h")
    S = S.integrate_out("f")
    S = S.integrate_out("j")
    S = S.logarithm("Q", "u")
    return ft.Theory("kernel-rescaling", "Kernel rescaling in a two-layer network", net, S, loops=loops,
                     source="Li and Sompolinsky 2021, arXiv 2012.04030; Pacelli et al. 2023, arXiv 2209.04882")
