"""Mean-field theory of a nonlinear network: independent, identical neurons, each in the average field of the others.

The best product law of the neurons is found by a variational principle, and the readout is then integrated out of the
law of one (Göring et al. 2025, arXiv 2510.15174).  The mean output is kernel regression with a kernel that the law of
the hidden weights adapts to the data.
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network) -> ft.Theory:
    """Independent neurons, the best law of which is found self-consistently: an adaptive kernel."""
    S = net.plain("mean-field theory", bias=True, other="mean-field-ard").action()
    S = S.decouple("site", "m", projections={"X_*": "m_*"})
    S = S.integrate_out("a")
    return ft.Theory("mean-field", "Mean-field theory of a two-layer network", net, S,
                     source="Göring et al. 2025, arXiv 2510.15174")
