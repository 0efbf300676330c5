"""The adaptive kernel at tree level: the readout integrated out, the conjugate of the output at its saddle.

Given that conjugate the neurons are independent, whatever the activation, and the law of one is the prior tilted along
the discrepancy t = (y - f)/s.  The mean output is regression with the kernel of the tilted law.  For a linear network
this is its kernel adaptation without loops (Rubin et al. 2025, arXiv 2502.03210).
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network) -> ft.Theory:
    """The law of one neuron tilted along the discrepancy, at the saddle in it: the kernel adapts, without loops."""
    S = net.plain("the adaptive kernel", bias=True).action()
    S = S.conjugate("f", "output", conjugate="j")
    S = S.integrate_out("a")
    S = S.integrate_out("f")
    S = S.site_saddle("site", "j", "t")
    return ft.Theory("adaptive-kernel", "Kernel adaptation at tree level in a two-layer network", net, S,
                     source="Rubin et al. 2025, arXiv 2502.03210, for the linear network")
