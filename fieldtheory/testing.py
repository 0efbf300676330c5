"""For tests of theories, ours and yours: Hypothesis strategies, and assertions that judge an expansion or a theory.

    from hypothesis import given
    from fieldtheory.testing import actions, assert_next_coefficient

    @given(actions(fields=2))
    def test_two_loops(S):
        assert_next_coefficient(S, loops=2)

The strategies need Hypothesis (the extra ``testing``); the assertions need nothing that the package does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import mpmath
import numpy as np
import sympy as sp
import xarray as xr

from fieldtheory.action import Action
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.exact.lattice import LatticeLaw
from fieldtheory.network import Network, Scaling
from fieldtheory.next_coefficient import (
    EFFECTIVE_ACTION,
    LOG_PARTITION,
    TOLERANCE,
    WIDTHS,
    ActionExpansion,
    Comparison,
    check_widths,
    checked_quantity,
    digits_for,
    quantity_name,
    standard_quantities,
)
from fieldtheory.solve import find_roots
from fieldtheory.symbolic.closures import ScalarClosure
from fieldtheory.symbolic.fields import SpaceSum, entries, sums, top_replace
from fieldtheory.symbolic.loops import ScalarExpansion
from fieldtheory.symbolic.series import numerical_value
from fieldtheory.theory import Theory
from fieldtheory.verdict import Verdict, validate

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def _strategies() -> Any:
    try:
        import hypothesis.strategies
    except ImportError:
        raise ImportError("the strategies of fieldtheory.testing need Hypothesis: install the extra, "
                          "pip install 'bayes-fieldtheory[testing]'") from None
    return hypothesis.strategies


# ------------------------------------------------------------------------------------------------ strategies


def scalings() -> SearchStrategy[Scaling]:
    """Scalings with numbers: standard, mean-field, and rational points between and around them."""
    st = _strategies()
    exponents = st.builds(Scaling, st.fractions(Fraction(1, 2), 2, max_denominator=4),
                          st.fractions(0, 1, max_denominator=4))
    return st.one_of(st.sampled_from([Scaling.standard(), Scaling.mean_field()]), exponents)  # type: ignore[no-any-return]


def networks(*, activation: Any = "identity", widths: SearchStrategy[int] | None = None,
             scaling: SearchStrategy[Scaling] | None = None) -> SearchStrategy[Network]:
    """Networks whose numbers are all given: variances between 1/8 and 8, widths from 1 to 1,000.

    Parameters
    ----------
    activation : the same for every draw.
    widths, scaling : strategies that replace the default ones.
    """
    st = _strategies()
    variance = st.integers(-6, 6).map(lambda k: 2.0**(k / 2))
    return st.builds(Network, activation=st.just(activation), readout_variance=variance,  # type: ignore[no-any-return]
                     width=st.integers(1, 1000) if widths is None else widths,
                     weight_variance=variance, noise_variance=variance,
                     scaling=scalings() if scaling is None else scaling)


def datasets(*, max_samples: int = 8, max_input_dim: int = 8, max_test_samples: int = 3) -> SearchStrategy[Dataset]:
    """Small data sets: Gaussian or ±1 inputs (P, D), with P > D as often as P < D, and real or ±1 targets.

    Test inputs (up to ``max_test_samples``) come with about half of them.  The arrays follow from a seed, so that
    a failing example shrinks in its shape, not in its entries.
    """
    st = _strategies()

    def make(samples: int, input_dim: int, test_samples: int, signs: bool, labels: bool, seed: int) -> Dataset:
        rng = np.random.default_rng(seed)

        def inputs(count: int) -> Any:
            size = (count, input_dim)
            return rng.choice([-1.0, 1.0], size) if signs else rng.standard_normal(size)

        X, X_test = inputs(samples), inputs(test_samples)
        y = X @ rng.standard_normal(input_dim) + 0.3 * rng.standard_normal(samples)
        return Dataset(X, np.where(y < 0, -1.0, 1.0) if labels else y, X_test if test_samples else None,
                       name=f"drawn with seed {seed}")

    return st.builds(make, st.integers(1, max_samples), st.integers(1, max_input_dim),  # type: ignore[no-any-return]
                     st.integers(0, max_test_samples), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))


def actions(fields: int = 1) -> SearchStrategy[Action]:
    r"""Actions S = N V(x) that nobody has seen before, with one stable saddle and a large parameter N.

    V = ½ |ξ + q(ξ)|² + ½ c |ξ|⁴ with ξ = A (x - x*), A triangular, q quadratic forms, all numbers rational.  No
    reflection leaves V as it is, since q_i holds ξ_i² for every i: nothing cancels by symmetry.  On a ray ξ = t v,
    |v| = 1, with α = v·q(v), V = ½ t² (1 + 2αt + (|q(v)|² + c) t²), which has no other stationary point since
    c ≥ |q|² of the coefficients: x* is the only real saddle.

    Parameters
    ----------
    fields : how many, one to three.

    Raises
    ------
    BadInput
        For another number of fields.
    """
    if isinstance(fields, bool) or fields not in (1, 2, 3):
        raise BadInput("fields", fields, "1, 2 or 3: exact averages of more fields take minutes")
    st = _strategies()
    x, N = sp.symbols(" ".join("xyz"[:fields]), real=True, seq=True), sp.Symbol("N", positive=True)
    quarters = st.integers(-2, 2).map(lambda k: sp.Rational(k, 4))
    pairs = list(combinations_with_replacement(range(fields), 2))

    def make(point: list[Any], scales: list[int], shears: list[Any], forms: list[Any], signs: list[int],
             extra: int) -> Action:
        A = sp.eye(fields)
        below = iter(shears)
        for i in range(fields):
            A[i, i] = sp.Rational(scales[i], 2)
            for j in range(i):
                A[i, j] = next(below)
        q = [[c / 2 for c in forms[i * len(pairs):(i + 1) * len(pairs)]] for i in range(fields)]
        for i, sign in enumerate(signs):
            own = pairs.index((i, i))
            q[i][own] = q[i][own] or sp.Rational(sign, 8)
        xi = A * sp.Matrix([a - b for a, b in zip(x, point)])
        quadratic = [sum(c * xi[i] * xi[j] for c, (i, j) in zip(row, pairs)) for row in q]
        c = sum(v**2 for row in q for v in row) + sp.Rational(extra, 16)
        V = sum((a + b)**2 for a, b in zip(xi, quadratic)) / 2 + c * sum(a**2 for a in xi)**2 / 2
        return Action(N * sp.Poly(V, *x).as_expr(), x, large=N)

    def several(strategy: Any, count: int) -> Any:
        return st.lists(strategy, min_size=count, max_size=count)

    return st.builds(make, several(quarters, fields), several(st.integers(2, 4), fields),  # type: ignore[no-any-return]
                     several(quarters, fields * (fields - 1) // 2), several(quarters, fields * len(pairs)),
                     several(st.sampled_from([-1, 1]), fields), st.integers(0, 2))


# ------------------------------------------------------------------------------------------------ assertions


def assert_next_coefficient(subject: Action | Theory, loops: int, observable: Any = None, *, at: Any = None,
                            values: Mapping[str, Any] | None = None, samples_per_width: Any = 1,
                            widths: Sequence[int] = WIDTHS, tolerance: float = TOLERANCE) -> None:
    r"""Assert that the error of an expansion to L loops approaches the engine's own next term.

    With ⟨O⟩ = Σ_l o_l N^{-l}, the error after L loops times N^{L+1} must approach o_{L+1}; likewise N^{n+L} for a
    joint cumulant of n observables, N^L for ln Z and for the effective action.  Errors at all widths are extrapolated
    to 1/N = 0, and must then agree to ``tolerance``.  A slope alone would pass with a wrong constant, and fail where
    the coefficient happens to vanish.  The exact side is a sum over a lattice with at least 30 digits
    (:mod:`fieldtheory.exact.lattice`).

    Parameters
    ----------
    subject
        An :class:`~fieldtheory.Action` of one to three real scalar fields; or a :class:`~fieldtheory.Theory` that
        closes with one number, such as the linear network's rescaling view.
    loops
        L, the order that is kept.
    observable
        An expression in the fields (for a theory: in its unknown, ``theory.closure.symbol``); a tuple of them for
        their joint cumulant; "ln Z"; or "Gamma" for the effective action near the saddle.  None stands for all of
        these: ln Z, two means, a third and a fourth cumulant, and Gamma for one or two fields (a theory: ln Z and two
        means).
    at
        For an action: the saddle to expand about; None for the dominant one (of three fields, the lowest minimum that
        descent finds).
    values
        Numbers for the other symbols, by name, and for a theory also the data, one array for each.
    samples_per_width
        For a theory: the data are repeated until P = samples_per_width · N, so that the spectrum per sample
        stays fixed.
    widths
        Two or more growing values of N.

    Raises
    ------
    AssertionError
        With the table of N, the error times the power of N, and the next term.
    BadInput, RuleError
        For a theory with more than one unknown, a symbol without a number, a field over a space.
    """
    exact = {str(name): _exact(value) for name, value in (values or {}).items()}
    expansion: _TheoryExpansion | ActionExpansion
    if isinstance(subject, Theory):
        expansion = _TheoryExpansion(subject, exact, samples_per_width)
        fields: Sequence[Any] = (expansion.unknown,)
        standard: Sequence[Any] = (LOG_PARTITION, expansion.unknown, expansion.unknown**2)
    elif isinstance(subject, Action):
        numbers = {s: exact[s.name] for s in subject.expr.free_symbols if s.name in exact and s not in subject.fields}
        large = None if subject.large in numbers else subject.large
        expansion = ActionExpansion(Action(subject.expr.xreplace(numbers), subject.fields, large=large), at)
        fields, standard = subject.fields, standard_quantities(subject.fields)
    else:
        raise BadInput("subject", type(subject).__name__, "an Action or a Theory")
    widths = check_widths(widths)
    for quantity in standard if observable is None else (observable,):
        comparison = expansion.compare(checked_quantity(quantity, fields), loops, widths)
        if not comparison.error <= tolerance:
            raise AssertionError(f"{comparison}\nThey differ by {comparison.error:.1e} of the larger, extrapolated to "
                                 f"1/N = 0; allowed is {tolerance:.0e}.")


class _TheoryExpansion:
    """S(x; N) of a theory that closes with one number, with data: its expansion, and its exact averages at any N.

    ``action`` is what the engine expands (data as data); ``explicit`` the same with every sum written out.
    """

    def __init__(self, theory: Theory, values: Mapping[str, Any], samples_per_width: Any) -> None:
        closure = theory.closure
        if not isinstance(closure, ScalarClosure):
            raise RuleError(f"{theory!r} does not close with one number, and has no expansion to any order")
        N, expr = sp.Symbol("N", positive=True), closure.action.expr
        data = [entry for entry in entries(expr) if entry.spaces]
        _complete(data, values)
        lengths = {space: len(values[entry.name]) for entry in data for space in entry.spaces}
        if any(inner.body.atoms(SpaceSum) for inner in expr.atoms(SpaceSum)):
            raise RuleError("data are repeated in single sums only, and the action holds nested ones")
        # Data repeated R times: every sum over them counts R times, and its space has R times as many points.
        repeats = {space: sp.nsimplify(samples_per_width) * N / length for space, length in lengths.items()}
        expr = top_replace(expr, {total: repeats[total.space] * total for total in sums(expr)}
                           | {space.size: repeats[space] * length for space, length in lengths.items()})
        expr = expr.xreplace({key: value for key, value in theory.definitions.items()
                              if isinstance(key, sp.Symbol) and key.name not in values})
        sizes = {space.size for space in lengths}
        _complete(expr.free_symbols - {closure.field, N} - sizes, values)
        dummy = sp.Dummy("u", real=True)
        (inverse,) = sp.solve(closure.coordinate - dummy, closure.symbol)
        self.values, self.unknown, self.inverse = values, closure.symbol, inverse.xreplace({dummy: closure.field})
        self.expr, self.field, self.large = expr, closure.field, N
        self.u = sp.Dummy("u", real=True)
        self.explicit = _explicit(expr.xreplace({self.field: self.u}), values)
        self._tables: dict[Any, Mapping[int, sp.Expr]] = {}

    def compare(self, quantity: Any, loops: int, widths: Sequence[int]) -> Comparison:
        """The error of an L-loop result beside the next term, at each N."""
        if isinstance(quantity, tuple) or quantity == EFFECTIVE_ACTION:
            raise BadInput("observable", quantity, f"an expression in {self.unknown}, or {LOG_PARTITION!r}")
        log_partition = quantity == LOG_PARTITION
        extent = max(loops, 1) if log_partition else loops + 1
        digits, found, expected = digits_for(extent, max(widths)), [], []
        for N in widths:
            with mpmath.workdps(digits + 15):
                saddle, exact = self._exact(quantity, N, digits)
                at = {**self.values, self.large.name: N, self.field: saddle}
                terms = [numerical_value(self._table(quantity, extent).get(order, sp.S.Zero), at, digits + 10)
                         for order in range(1 if log_partition else 0, extent + 1)]
                found.append(float((exact - mpmath.fsum(terms[:-1])) * mpmath.mpf(N)**extent))
                expected.append(float(terms[-1] * mpmath.mpf(N)**extent))
        return Comparison(quantity_name(quantity), loops, tuple(widths), tuple(found), tuple(expected))

    def _table(self, quantity: Any, extent: int) -> Mapping[int, sp.Expr]:
        if (quantity, extent) not in self._tables:
            expansion = ScalarExpansion.of(self.expr, self.field, extent)
            self._tables[quantity, extent] = (
                expansion.log_partition() if quantity == LOG_PARTITION
                else expansion.expectation(sp.sympify(quantity).xreplace({self.unknown: self.inverse})))
        return self._tables[quantity, extent]

    def _exact(self, quantity: Any, N: int, digits: int) -> tuple[Any, Any]:
        """The saddle, and the quantity by a sum over a lattice; ln Z relative to the Gaussian there."""
        S = self._function(self.explicit, N)
        saddle, curvature = self._saddle(S, N)
        law = LatticeLaw(S, [saddle], [[curvature]], digits)
        if quantity == LOG_PARTITION:
            return saddle, law.log_partition + S(saddle) + mpmath.log(curvature / (2 * mpmath.pi)) / 2
        target = sp.sympify(quantity).xreplace({self.unknown: self.inverse})
        return saddle, law.mean(self._function(_explicit(target.xreplace({self.field: self.u}), self.values), N))

    def _function(self, expr: sp.Expr, N: int) -> Callable[[Any], Any]:
        # N stays an argument: SymPy would write out the factorial in lnΓ(N/2).
        function = sp.lambdify((self.u, self.large), expr, "mpmath")
        return lambda u: function(u, mpmath.mpf(N))

    def _saddle(self, S: Callable[[Any], Any], N: int) -> tuple[Any, Any]:
        """The dominant stable saddle and S'' there, by a scan in float64 and Newton's method from there on."""
        slope, bend = (sp.diff(self.explicit, self.u, order) for order in (1, 2))
        first, second = self._function(slope, N), self._function(bend, N)
        roots = [root.value for root in find_roots(lambda u: (float(first(u)), float(second(u))), -25.0, 25.0)
                 if root.slope > 0]
        if not roots:
            raise RuleError("the action has no stable saddle between -25 and 25")
        at = mpmath.mpf(min(roots, key=lambda u: float(S(u))))
        for _ in range(12):  # from 15 digits, the number doubles with every step
            step = first(at) / second(at)
            at -= step
            if abs(step) <= mpmath.mpf(10)**(10 - mpmath.mp.dps) * max(1, abs(at)):
                break
        return at, second(at)


def _exact(value: Any) -> Any:
    """A number, or a list of them, as rationals."""
    if np.ndim(value):
        return [_exact(entry) for entry in value]
    number = value.item() if isinstance(value, np.generic) else value
    return sp.Rational(number) if not isinstance(number, sp.Basic) else sp.nsimplify(number)


def _explicit(expr: Any, values: Mapping[str, Any]) -> Any:
    """An expression with numbers for the symbols and data that have them, and every sum over data written out."""
    expr = top_replace(expr, {total: sp.Add(*(
        _explicit(total.body.xreplace({entry: values[entry.name][k] for entry in entries(total.body)
                                       if total.space in entry.spaces}), values)
        for k in range(_length(total, values)))) for total in sums(expr)})
    return expr.xreplace({symbol: values[symbol.name] for symbol in expr.free_symbols if symbol.name in values})


def _length(total: SpaceSum, values: Mapping[str, Any]) -> int:
    return next(len(values[e.name]) for e in entries(total.body) if total.space in e.spaces)


def _complete(wanted: Iterable[Any], values: Mapping[str, Any]) -> None:
    if missing := sorted(atom.name for atom in wanted if atom.name not in values):
        raise BadInput("values", f"none for {missing[0]}", f"values for {', '.join(missing)}")


def assert_agrees(prediction: xr.Dataset, samples: Any, *, level: float = 0.01, minimum_ess: float = 400) -> Verdict:
    """Assert that samples keep a prediction, and return the verdict.

    The probability that a true prediction fails is at most ``level``, over all observables together; "undecided"
    (too few effective samples, chains that disagree) fails as well, since it would prove nothing.  Arguments as for
    :func:`fieldtheory.validate`.

    Raises
    ------
    AssertionError
        With the verdict's table.
    """
    return _asserted(prediction, samples, "kept", level, minimum_ess)


def assert_rejected(prediction: xr.Dataset, samples: Any, *, level: float = 0.01, minimum_ess: float = 400) -> Verdict:
    """Assert that samples reject a prediction: the wrong twin that shows what :func:`assert_agrees` can see.

    Raises
    ------
    AssertionError
        With the verdict's table, where the prediction is kept or the samples cannot tell.
    """
    return _asserted(prediction, samples, "rejected", level, minimum_ess)


def _asserted(prediction: xr.Dataset, samples: Any, wanted: str, level: float, minimum_ess: float) -> Verdict:
    verdict = validate(prediction, samples, level=level, minimum_ess=minimum_ess)
    if verdict.status != wanted:
        raise AssertionError(f"the prediction should be {wanted}, and it is {verdict.status}:\n{verdict}")
    return verdict


__all__ = ["actions", "assert_agrees", "assert_next_coefficient", "assert_rejected", "datasets", "networks", "scalings"]
