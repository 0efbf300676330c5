"""The specification of a network: powers of N, validation, immutability."""

from __future__ import annotations

import dataclasses
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldtheory import errors
from fieldtheory.errors import BadInput, NotConverged, NotGaussian, UnknownName
from fieldtheory.network import ARD, Network, Scaling

numbers = st.floats(0.01, 100)


def test_named_points() -> None:
    assert (Scaling.standard().readout, Scaling.standard().noise) == (1, 0)
    assert (Scaling.mean_field().readout, Scaling.mean_field().noise) == (2, 1)
    assert Scaling.standard().name == "standard" and Scaling(2.0, Fraction(1)).name == "mean-field"
    assert Scaling(1.5, 0).name == "Scaling(readout=3/2, noise=0)"
    assert not Scaling(1).is_numeric and not Scaling().is_numeric and Scaling(1, 0).is_numeric
    assert Scaling() != Scaling.standard() and Scaling(2, 1) == Scaling.mean_field()


def test_simple_floats_become_exact_exponents() -> None:
    scaling = Scaling(np.float64(1.5), 0.1)
    assert (scaling.readout, scaling.noise) == (Fraction(3, 2), Fraction(1, 10))
    assert type(Scaling(np.int64(2), 1.0).noise) is int
    assert Scaling(math.pi, 0).readout == math.pi


@given(numbers, numbers, st.integers(1, 10**6), st.floats(0, 3), st.floats(0, 2))
def test_effective_variances(sigma2: float, s0: float, N: int, gamma: float, delta: float) -> None:
    net = Network(width=N, readout_variance=sigma2, noise_variance=s0, scaling=Scaling(gamma, delta))
    assert net.readout_prior_variance() == pytest.approx(sigma2 * N ** (-gamma), rel=1e-12)
    assert net.effective_readout_variance() == pytest.approx(N * net.readout_prior_variance(), rel=1e-12)
    assert net.effective_noise_variance() == pytest.approx(s0 * N ** (-delta), rel=1e-12)
    assert net.effective_noise_variance(1) == s0 and net.effective_readout_variance(width=1) == sigma2


@given(numbers, numbers, st.integers(1, 10**6))
def test_the_path_between_scalings_has_both_ends(sigma2: float, s0: float, N: int) -> None:
    net = Network(width=N, readout_variance=sigma2, noise_variance=s0, scaling=Scaling.mean_field())
    for end, chi in ((net.replace(scaling=Scaling.standard()), 1), (net, N)):
        on_path = net.along(chi)
        assert on_path.effective_readout_variance() == pytest.approx(end.effective_readout_variance())
        assert on_path.effective_noise_variance() == pytest.approx(end.effective_noise_variance())


def test_symbols_stay_until_a_number_is_needed() -> None:
    net = Network(readout_variance=2.0, noise_variance=0)
    assert net.effective_readout_variance() == 2.0  # standard scaling: no width needed
    assert net.effective_noise_variance() == 0.0
    with pytest.raises(BadInput, match=r"^width: got None"):
        net.readout_prior_variance()
    with pytest.raises(BadInput, match=r"^readout_variance: got None"):
        Network(width=3).effective_readout_variance()
    with pytest.raises(BadInput, match=r"^scaling\.noise: got None"):
        Network(width=3, noise_variance=1, scaling=Scaling(1)).effective_noise_variance()
    for chi in (0, -1, math.nan, None):
        with pytest.raises(BadInput, match=r"^chi: got"):
            net.along(chi)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("width", 0), ("width", -3), ("width", 2.5), ("width", True), ("width", "10"), ("input_dim", 0),
        ("readout_variance", 0), ("readout_variance", -1.0), ("readout_variance", math.inf),
        ("weight_variance", math.nan), ("weight_variance", "1"), ("weight_variance", 1j),
        ("noise_variance", -1e-300), ("noise_variance", np.float64("nan")), ("scaling", (1, 0)),
        ("activation", "rleu"), ("activation", None), ("bias_variance", -0.1), ("bias_variance", math.inf),
        ("bias_variance", "1"), ("prior", "gausian"), ("prior", None), ("prior", (1, 2)),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(argument: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"^{argument}: got ") as caught:
        Network(**{argument: value})
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    with pytest.raises(BadInput):
        Network().replace(**{argument: value})


@pytest.mark.parametrize("exponents", [("1", 0), (1, math.inf), (math.nan, 0), (None, True)])
def test_bad_exponents(exponents: tuple) -> None:
    with pytest.raises(BadInput, match=r"^scaling\.(readout|noise): got"):
        Scaling(*exponents)


def test_nearest_names_are_suggested() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'relu'\?") as caught:
        Network(activation="rleu")
    assert caught.value.suggestion == "relu"
    with pytest.raises(UnknownName, match=r"did you mean 'width'\?"):
        Network().replace(widht=3)


def test_frozen_in_new_out() -> None:
    net = Network(width=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.width = 4  # type: ignore[misc]
    wider = net.replace(width=4)
    assert (net.width, wider.width) == (3, 4) and wider.replace(width=3) == net and len({net, wider}) == 2


@pytest.mark.parametrize("numbers", [(0, 1), (-1, 1), (math.nan, 1), (1, 0), (1, math.inf), ("1", 1), (None, 1)])
def test_relevance_needs_two_positive_numbers(numbers: tuple) -> None:
    with pytest.raises(BadInput, match=r"^prior\.(alpha0|beta0): got"):
        ARD(*numbers)


@given(numbers, numbers, st.integers(1, 100))
def test_the_rate_defaults_to_the_fixed_prior_s(alpha0: float, sigma2: float, D: int) -> None:
    net = Network(weight_variance=sigma2, prior=ARD(alpha0))
    shape, rate = net.precision_prior(D)
    assert shape == alpha0 and rate / shape == pytest.approx(sigma2 / D, rel=1e-12)
    assert net.hidden_prior_variance(D) == pytest.approx(sigma2 / D, rel=1e-12)
    given = net.replace(prior=ARD(alpha0, 3.0), weight_variance=None)  # it needs no weight_variance
    assert given.precision_prior(D) == pytest.approx((alpha0, 3.0))
    assert given.hidden_prior_variance(D) == pytest.approx(3.0 / alpha0)
    assert net.replace(prior="gaussian").precision_prior(D) is None


def test_options_that_a_theory_does_not_cover_are_refused_by_name() -> None:
    net = Network(width=3)
    assert net.plain("it") is net and not net.has_bias and not net.has_ard
    biased, relevant = net.replace(bias_variance=0.5), net.replace(prior=ARD(2))
    assert biased.plain("it", bias=True) is biased and net.replace(bias_variance=None).has_bias
    with pytest.raises(BadInput, match=r"^bias_variance: got 0\.5; expected 0, since it is .*data\.with_bias"):
        biased.plain("it")
    with pytest.raises(BadInput, match=r"^prior: got ARD with alpha0 = 2; expected 'gaussian': it"):
        relevant.plain("it", bias=True)


def test_an_opaque_activation_is_carried_along() -> None:
    class Opaque:
        """Anything at all: equality, truth and text are nobody's business."""

        __eq__ = __bool__ = __str__ = __hash__ = None

    activation = Opaque()
    assert Network(activation=activation).replace(width=2).activation is activation


def test_every_error_survives_pickling() -> None:
    cases = [
        BadInput("x", 1, "2"),
        UnknownName("x", "isng", ["ising"]),
        NotConverged("slow", 0.1),
        NotGaussian("V"),
    ]
    for error in cases:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)
        assert isinstance(copy, errors.FieldTheoryError)
