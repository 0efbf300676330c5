"""The linear network: kernel adaptation and kernel rescaling, two views of one action.

From the microscopic action of f(x) = Σ_i a_i w_i·x the output is named and the hidden weights are integrated
out.  Integrating the readout next leaves an action in the conjugate output j, whose saddle adapts the kernel;
keeping Q = Σ_i a_i² instead leaves an action in one number, whose saddle rescales it (Rubin et al. 2025,
arXiv 2502.03210).
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network, *, view: str = "rescaling", loops: int = 1) -> ft.Theory:
    """The linear network in one of its views: "rescaling" (saddle in Q) or "adaptation" (saddle in j)."""
    S = net.plain("the linear theory").action()
    S = S.conjugate("f", "output", conjugate="j")
    S = S.integrate_out("w")
    S = S.diagonalise("X", modes="mode", spectrum="lambda", variance=S.last["variance"], projections={"X_*": "T"})
    return ft.choose("view", view, VIEWS)(net, S, loops)


def adaptation(net: ft.Network, S: ft.Action, loops: int) -> ft.Theory:
    """Integrate the readout: W(j) remains, and the kernel adapts along the target."""
    S = S.integrate_out("a")
    S = S.integrate_out("f")
    q = S.collectivise("j", "q")
    return ft.Theory("linear", "Kernel adaptation in the linear network", net, S, view="adaptation", loops=loops,
                     parameters=q, source="Rubin et al. 2025, arXiv 2502.03210")


def rescaling(net: ft.Network, S: ft.Action, loops: int) -> ft.Theory:
    """Keep the norm of the readout: one number Q remains, and the kernel is rescaled."""
    S = S.introduce("Q", "readout_norm", conjugate="h", domain="positive")
    S = S.integrate_out("a")
    S = S.integrate_conjugate("h")
    S = S.integrate_out("f")
    S = S.integrate_out("j")
    S = S.logarithm("Q", "u")
    return ft.Theory("linear", "Kernel rescaling in the linear network", net, S, view="rescaling", loops=loops,
                     source="Rubin et al. 2025, arXiv 2502.03210")


VIEWS = {"adaptation": adaptation, "rescaling": rescaling}
