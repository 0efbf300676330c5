"""Collapsed mean-field theory with relevance determination.

The precisions of the inputs, which all neurons share, get the best law that is independent of the weights; at their
mean the readout of all neurons is integrated out exactly, and one neuron singled out in the mean kernel of the others.
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network) -> ft.Theory:
    """Independent precisions; all readouts integrated exactly, one neuron in the mean kernel of the others."""
    S = net.plain("collapsed mean-field theory with relevance determination", bias=True, ard=True,
                  other="collapsed-mean-field").action()
    S = S.hyperprior("lambda", "W")
    S = S.conjugate("f", "output", conjugate="j")
    S = S.integrate_out("a")
    S = S.integrate_out("f")
    S = S.cavity("site", "j", spectrum="kappa", basis="V", modes="eigenmode", projections={"X_*": "T"})
    S = S.integrate_out("j")
    return ft.Theory("collapsed-mean-field-ard", "Collapsed mean-field theory with relevance determination", net, S)
