"""Mean-field theory with relevance determination: independent neurons, and a precision of its own for every input.

The precisions are shared by all neurons and have a law of their own, the best one that is independent of the weights
(MacKay 1994; Göring et al. 2025, arXiv 2510.15174).  An input that the neurons use keeps a small precision: large
weights cost little there, which makes it easier to use.
"""

from __future__ import annotations

import fieldtheory as ft


def derive(net: ft.Network) -> ft.Theory:
    """Independent neurons and independent precisions of the inputs: the best laws, found self-consistently."""
    S = net.plain("mean-field theory with relevance determination", bias=True, ard=True, other="mean-field").action()
    S = S.hyperprior("lambda", "W")
    S = S.decouple("site", "m", projections={"X_*": "m_*"})
    S = S.integrate_out("a")
    return ft.Theory("mean-field-ard", "Mean-field theory with relevance determination", net, S,
                     source="Göring et al. 2025, arXiv 2510.15174")
