"""Collapsed mean-field theory: the readout of all neurons is integrated out exactly, the hidden weights are closed.

Without the readout the neurons are coupled through the conjugate of the output alone.  One neuron is singled out, and
the kernel of the others is replaced by its mean: a neuron is charged only for what the others do not express already.
What that drops, the fluctuation of the others' kernel, is put back in two steps: by the medium that leaves the
resolvent alone in place of the mean (``resolvent="self-consistent"``), and by pairs of neurons (``loops=1``).
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network, *, resolvent: str = "mean", loops: int = 0) -> ft.Theory:
    """All readouts integrated exactly; one neuron in the mean kernel of the others, found self-consistently."""
    S = net.plain("collapsed mean-field theory", bias=True, other="collapsed-mean-field-ard").action()
    S = S.conjugate("f", "output", conjugate="j")
    S = S.integrate_out("a")
    S = S.integrate_out("f")
    S = S.cavity("site", "j", spectrum="kappa", basis="V", modes="eigenmode", projections={"X_*": "T"})
    corrected = loops or resolvent != "mean"
    if corrected:
        S = S.fluctuation(resolvent=resolvent, loops=loops)
    S = S.integrate_out("j")
    return ft.Theory("collapsed-mean-field", "Collapsed mean-field theory of a two-layer network", net, S, loops=loops,
                     view=f"{resolvent} resolvent" if corrected else "")
