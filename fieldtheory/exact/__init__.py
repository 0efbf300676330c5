"""The finite-width linear network, exactly: one-dimensional quadrature over Q = sum_i a_i^2.

A witness, written apart from the theory it judges. Given Q the outputs of f(x) = sum_i a_i w_i . x are
Gaussian with covariance Q K, and N Q / g is chi-squared with N degrees of freedom under the prior, so the
posterior of Q has density

    p(Q | y)  ~  Q^(N/2 - 1) exp(-N Q / 2g) det(Q K + s)^(-1/2) exp(-y^T (Q K + s)^-1 y / 2)

and everything asked of the network is an average over it. `QPosterior` does the quadrature, in float64 or to
any number of digits; `linear` returns the observables of a network and a data set in the layout of a
prediction.
"""

from fieldtheory.exact.observables import linear, linear_posterior
from fieldtheory.exact.posterior import QPosterior

__all__ = ["QPosterior", "linear", "linear_posterior"]
