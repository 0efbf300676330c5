"""The infinitely wide network: Bayesian regression with the fixed kernel g K_φ (the NNGP), for any activation.

Gaussian features, and then the action in the conjugate output, are both kept to leading order in 1/N at fixed g and s;
what is left is Gaussian.  Under mean-field scaling g and s fall with N, and this is the network without feature
learning.
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network) -> ft.Theory:
    """Regression with the fixed prior kernel: the leading order in 1/N at fixed g and s."""
    S = net.plain("the nngp theory", bias=True).action()
    S = S.conjugate("f", "output", conjugate="j")
    S = S.gaussian_features("w", features="F", latent="z", projections={"X_*": "F_*"})
    S = S.integrate_out("z")
    S = S.diagonalise("F", modes="mode", spectrum="lambda", variance=S.last["variance"], projections={"F_*": "T"})
    S = S.integrate_out("a")
    S = S.integrate_out("f")
    S = S.leading_order("N")
    S = S.integrate_out("j")
    return ft.Theory("nngp", "The infinitely wide network", net, S, source="Lee et al. 2018, arXiv 1711.00165")
