"""The network, written once, as data: f(x) = sum_i a_i phi(w_i . x + b_i) with Gaussian noise.

Everything downstream (symbolic action, samplers, oracles) reads this specification; nothing here computes
with it beyond the powers of N that turn `readout_variance` and `noise_variance` into their effective values.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fieldtheory.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from fieldtheory.action import Action

Number = int | float | Fraction

ACTIVATIONS = ("erf", "identity", "quadratic", "relu", "tanh")


def _plain(argument: str, value: Any, expected: str) -> Number:
    """`value` as a plain finite int, Fraction or float (NumPy scalars unwrapped), or BadInput."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise BadInput(argument, repr(value), expected)
    if isinstance(value, numbers.Integral):
        return int(value)
    if not math.isfinite(value):
        raise BadInput(argument, repr(value), expected)
    return value if isinstance(value, Fraction) else float(value)


def _exponent(argument: str, value: Any) -> Number | None:
    """An exponent as an int or Fraction wherever that is the same number: 1.5 -> 3/2, 2.0 -> 2."""
    if value is None:
        return None
    plain = _plain(argument, value, "a finite number, or None to keep it a symbol")
    exact = Fraction(plain).limit_denominator(1000)
    if float(exact) != float(plain):
        return plain
    return int(exact) if exact.denominator == 1 else exact


def _variance(argument: str, value: Any, *, zero: bool = False) -> Number | None:
    if value is None:
        return None
    expected = f"a finite number {'>=' if zero else '>'} 0, or None to keep it a symbol"
    plain = _plain(argument, value, expected)
    if plain < 0 or (plain == 0 and not zero):
        raise BadInput(argument, repr(value), expected)
    return plain


def _count(argument: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise BadInput(argument, repr(value), "an integer >= 1, or None to keep it a symbol")
    return int(value)


@dataclass(frozen=True)
class Scaling:
    """Powers of the width: a_i ~ N(0, sigma_a^2 N^-readout), noise variance s = s_0 N^-noise.

    `readout` is gamma and `noise` is delta; each is an int, Fraction or float, or None to stay a symbol.
    Floats that are simple fractions are stored as fractions, so that exponents of N come out exact. Standard
    scaling (1, 0) and mean-field scaling (2, 1) are two named points; everything between and beyond is legal.

    Errors: BadInput for anything that is neither a finite number nor None.
    """

    readout: Number | None = None
    noise: Number | None = None

    _named: ClassVar[dict[tuple[Number | None, Number | None], str]] = {
        (1, 0): "standard",
        (2, 1): "mean-field",
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "readout", _exponent("scaling.readout", self.readout))
        object.__setattr__(self, "noise", _exponent("scaling.noise", self.noise))

    @classmethod
    def standard(cls) -> Scaling:
        """Readout variance ~ 1/N, noise of order one: the lazy (kernel) regime at fixed P."""
        return cls(1, 0)

    @classmethod
    def mean_field(cls) -> Scaling:
        """Readout variance ~ 1/N^2, noise variance ~ 1/N: features move at leading order."""
        return cls(2, 1)

    @property
    def is_numeric(self) -> bool:
        """Whether both exponents are numbers."""
        return self.readout is not None and self.noise is not None

    @property
    def name(self) -> str:
        """The named point, "standard" or "mean-field", or else the exponents written out."""
        fallback = f"Scaling(readout={self.readout}, noise={self.noise})"
        return self._named.get((self.readout, self.noise), fallback)


@dataclass(frozen=True)
class ARD:
    """Automatic relevance determination: hidden weights whose precision per input is itself drawn.

    Equation: w_ij ~ N(0, 1/lambda_j) with lambda_j ~ Gamma(shape alpha0, rate beta0), one precision per input
        j, shared by all neurons: p(lambda) = beta0^alpha0 lambda^(alpha0-1) e^(-beta0 lambda) / Gamma(alpha0).
    Scaling: with `beta0` None the rate is alpha0 weight_variance / D, at which 1/E lambda_j = weight_variance/D
        and a network that has learned nothing keeps the weights of the fixed prior. A `beta0` that is given sets
        the size of the weights by itself, and the network's `weight_variance` plays no part.
    Validity: alpha0 -> infinity at beta0 = alpha0 weight_variance / D is the fixed Gaussian prior; at finite
        alpha0 a weight has a Student t of 2 alpha0 degrees of freedom, with a variance for alpha0 > 1 only.
    Errors: BadInput for numbers that are not positive and finite: at alpha0 or beta0 = 0 the prior of a precision
        has no norm, and its posterior can run off to infinity or to zero.
    Source: MacKay 1994; Neal, Bayesian Learning for Neural Networks (1996), section 4.
    """

    alpha0: Number
    beta0: Number | None = None

    def __post_init__(self) -> None:
        for name in ("alpha0", "beta0"):
            value = getattr(self, name)
            if value is None and name == "beta0":
                continue
            expected = "a finite number > 0" + (", or None for alpha0 weight_variance / D" if name == "beta0" else "")
            plain = _plain(f"prior.{name}", value, expected)
            if not plain > 0:
                raise BadInput(f"prior.{name}", repr(value), expected)
            object.__setattr__(self, name, plain)


@dataclass(frozen=True)
class Network:
    """A two-layer Bayesian network f(x) = sum_i a_i phi(w_i . x + b_i) of width N.

    Equation: a_i ~ N(0, readout_variance N^-scaling.readout), w_ij ~ N(0, weight_variance / D) or by `prior`,
        b_i ~ N(0, bias_variance), likelihood exp(-sum_mu (f_mu - y_mu)^2 / (2 s)), s = noise_variance
        N^-scaling.noise.
    Scaling with N: applied by `Scaling` and nowhere else; the variances are the numbers of order one. The bias is
        added to the pre-activation w.x as it is: its variance is divided neither by N nor by D, so that it weighs
        as much as weight_variance |x|^2/D does.
    Validity: any number may be None and stays a symbol in the action; `noise_variance` may be 0
        (interpolation), and `bias_variance` 0 means no biases (the default). `prior` is "gaussian", or an `ARD`
        for the hidden weights (not the biases). `activation` is one of the names in `ACTIVATIONS`, or any other
        object (a SymPy expression in one symbol, say), which is carried along and never opened here.
    Errors: BadInput naming the argument (width not an integer >= 1, variance not positive, not finite);
        UnknownName, with the nearest name, for an activation or a prior that is not known.
    """

    activation: Any = "identity"
    width: int | None = None
    readout_variance: Number | None = None
    weight_variance: Number | None = None
    noise_variance: Number | None = None
    scaling: Scaling = field(default_factory=Scaling.standard)
    input_dim: int | None = None
    bias_variance: Number | None = 0
    prior: ARD | Literal["gaussian"] = "gaussian"

    def __post_init__(self) -> None:
        if self.activation is None:
            raise BadInput("activation", None, f"one of {', '.join(ACTIVATIONS)}, or an expression")
        if isinstance(self.activation, str) and self.activation not in ACTIVATIONS:
            raise UnknownName("activation", self.activation, ACTIVATIONS)
        if not isinstance(self.scaling, Scaling):
            raise BadInput("scaling", repr(self.scaling), "a Scaling, such as Scaling.standard()")
        for name in ("width", "input_dim"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in ("readout_variance", "weight_variance"):
            object.__setattr__(self, name, _variance(name, getattr(self, name)))
        for name in ("noise_variance", "bias_variance"):
            object.__setattr__(self, name, _variance(name, getattr(self, name), zero=True))
        if isinstance(self.prior, str) and self.prior != "gaussian":
            raise UnknownName("prior", self.prior, ["gaussian"])
        if not isinstance(self.prior, str | ARD):
            raise BadInput("prior", repr(self.prior), "'gaussian', or ARD(alpha0, beta0)")

    @property
    def has_bias(self) -> bool:
        """Whether there are biases: False only at `bias_variance` 0, True where it is still a symbol."""
        return self.bias_variance is None or self.bias_variance > 0

    @property
    def has_ard(self) -> bool:
        """Whether the precisions of the hidden weights are drawn, one per input."""
        return isinstance(self.prior, ARD)

    def replace(self, **changes: Any) -> Network:
        """A copy with some fields changed, validated like a new one.

        Errors: UnknownName for a field that does not exist.
        """
        for name in changes:
            if name not in self.__dataclass_fields__:
                raise UnknownName("Network.replace", name, self.__dataclass_fields__)
        return replace(self, **changes)

    def along(self, chi: float) -> Network:
        """The point chi between the scalings: g = readout_variance / chi and s = noise_variance / chi.

        Written at standard scaling, whatever `self.scaling` is: chi = 1 is standard and chi = N mean-field
        scaling of the same three variances.

        Errors: BadInput when chi is not a positive number, or a variance it divides is None.
        """
        if (divisor := _variance("chi", chi)) is None:
            raise BadInput("chi", None, "a number > 0")
        return self.replace(
            scaling=Scaling.standard(),
            readout_variance=float(self._number("readout_variance")) / float(divisor),
            noise_variance=float(self._number("noise_variance")) / float(divisor),
        )

    def effective_readout_variance(self, width: int | None = None) -> float:
        """g = readout_variance N^(1 - gamma), so that Var a_i = g / N; `width` overrides the network's own N.

        Errors: BadInput naming what is missing.
        """
        return float(self._number("readout_variance")) * self._power(1, "readout", width)

    def effective_noise_variance(self, width: int | None = None) -> float:
        """s = noise_variance N^-delta, the variance in the likelihood; `width` overrides the network's own N.

        Errors: BadInput naming what is missing.
        """
        return float(self._number("noise_variance")) * self._power(0, "noise", width)

    def readout_prior_variance(self, width: int | None = None) -> float:
        """Var a_i = g / N = readout_variance N^-gamma; `width` overrides the network's own N."""
        return float(self._number("readout_variance")) * self._power(0, "readout", width)

    def hidden_prior_variance(self, input_dim: int) -> float:
        """The variance weight_variance / D of a hidden weight; under ARD 1/E lambda_j = beta0/alpha0.

        Errors: BadInput naming what is missing.
        """
        if isinstance(self.prior, ARD) and self.prior.beta0 is not None:
            return float(self.prior.beta0) / float(self.prior.alpha0)
        return float(self._number("weight_variance")) / _plain("input_dim", input_dim, "an integer >= 1")

    def precision_prior(self, input_dim: int) -> tuple[float, float] | None:
        """(shape, rate) of the Gamma law of a precision lambda_j, or None where the prior is Gaussian."""
        if not isinstance(self.prior, ARD):
            return None
        alpha0 = float(self.prior.alpha0)
        return alpha0, alpha0 * self.hidden_prior_variance(input_dim)

    def plain(self, who: str, *, bias: bool = False, ard: bool = False, other: str = "") -> Network:
        """This network, if it has a fixed prior and (unless `bias` is allowed) no biases: for what covers no more.

        With `ard` it must have an ARD prior instead; `other` is the name of the theory for the other kind of prior.

        Errors: BadInput naming the first option that `who`, say "the linear theory", does not cover.
        """
        if isinstance(self.prior, ARD) and not ard:
            instead = f"for this one: the theory {other!r}, and ft.sample" if other else "ft.sample takes either"
            raise BadInput("prior", f"ARD with alpha0 = {self.prior.alpha0}",
                           f"'gaussian': {who} is for a fixed prior ({instead})")
        if ard and not isinstance(self.prior, ARD):
            instead = f" (for a fixed one: {other!r})" if other else ""
            raise BadInput("prior", self.prior, f"ft.ARD(alpha0): {who} is for precisions that are drawn{instead}")
        if self.has_bias and not bias:
            raise BadInput("bias_variance", self.bias_variance, f"0, since {who} is for networks without biases. In "
                           "a linear network a bias is one more input: set it to 0 and give "
                           "data.with_bias(bias_variance / weight_variance)")
        return self

    def resolve_width(self, width: int | None = None) -> int:
        """`width` if given, else the network's own; BadInput when neither is a number."""
        resolved = _count("width", width) or self.width
        if resolved is None:
            raise BadInput("width", None, "an integer >= 1 (on the network, or as the width argument)")
        return resolved

    def action(self) -> Action:
        """The microscopic action: minus the log of the density over a, w (b, lambda where there are any) and y."""
        from fieldtheory.microscopic import microscopic_action

        return microscopic_action(self)

    def _number(self, name: str) -> Number:
        value = getattr(self, name)
        if value is None:
            raise BadInput(name, None, "a number (it is still a symbol)")
        return value

    def _power(self, offset: int, exponent: str, width: int | None) -> float:
        """N^(offset - exponent); a vanishing exponent needs no width."""
        value = getattr(self.scaling, exponent)
        if value is None:
            raise BadInput(f"scaling.{exponent}", None, "a number (it is still a symbol)")
        power = float(offset - value)
        return 1.0 if power == 0 else float(self.resolve_width(width)) ** power
