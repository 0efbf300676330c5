"""The infinitely wide linear network: Bayesian regression with the fixed kernel g K (the NNGP).

The action in the conjugate output is kept to leading order in 1/N at fixed g and s; what is left is Gaussian.
Under mean-field scaling g and s fall with N, and this is the network without feature learning.
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network) -> ft.Theory:
    """Regression with the fixed prior kernel: the leading order in 1/N at fixed g and s."""
    S = net.action()
    S = S.conjugate("f", "output", conjugate="j")
    S = S.integrate_out("w")
    S = S.diagonalise("X", modes="mode", spectrum="lambda", variance=S.last["variance"], projections={"X_*": "T"})
    S = S.integrate_out("a")
    S = S.integrate_out("f")
    S = S.leading_order("N")
    S = S.integrate_out("j")
    return ft.Theory("nngp", "The infinitely wide linear network", net, S, source="Lee et al. 2018, arXiv 1711.00165")
