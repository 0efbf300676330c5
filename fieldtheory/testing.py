"""For tests of theories, ours and yours: Hypothesis strategies, and assertions that judge an expansion or a theory.

    from hypothesis import given
    from fieldtheory.testing import actions, assert_next_coefficient

    @given(actions(fields=1))
    def test_two_loops(S):
        assert_next_coefficient(S, loops=2)

The strategies need Hypothesis (the extra ``testing``); the assertions need nothing that the package does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import mpmath
import numpy as np
import sympy as sp
import xarray as xr

from fieldtheory.action import Action
from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.network import Network, Scaling
from fieldtheory.solve import find_roots
from fieldtheory.symbolic.closures import ScalarClosure
from fieldtheory.symbolic.fields import Entry, SpaceSum, entries, sums, top_replace
from fieldtheory.symbolic.loops import ScalarExpansion
from fieldtheory.symbolic.series import numerical_value
from fieldtheory.tasks import Dataset
from fieldtheory.theory import Theory
from fieldtheory.verdict import Verdict, validate

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

WIDTHS = (1_000, 10_000, 100_000)
"""Values of the large parameter at which an expansion is judged; with exact arithmetic they cost nothing."""
LOG_PARTITION = "ln Z"


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

    V(x) = m ξ²/2 + a ξ³/6 + b ξ⁴/24 with ξ = x - x*, all coefficients rational, a ≠ 0 (so that nothing cancels by
    symmetry) and a² < 2 m b (so that V is convex, and x* the only real saddle).

    Raises
    ------
    BadInput
        For a number of fields other than one.
    """
    if fields != 1:
        raise BadInput("fields", fields, "1: actions of several fields are not drawn yet")
    st = _strategies()
    x, N = sp.Symbol("x", real=True), sp.Symbol("N", positive=True)

    def make(m: Fraction, b: Fraction, share: Fraction, sign: int, center: Fraction) -> Action:
        # The largest a of denominator 8 within the share of its bound; 1/8 is within it for every m and b drawn.
        a = sign * sp.Rational(max(1, math.floor(8 * float(share) * math.sqrt(2 * m * b))), 8)
        xi = x - sp.Rational(center)
        potential = sp.Rational(m) * xi**2 / 2 + a * xi**3 / 6 + sp.Rational(b) * xi**4 / 24
        return Action(N * sp.expand(potential), [x], large=N)

    positive = st.fractions(Fraction(1, 4), 4, max_denominator=8)
    return st.builds(make, positive, positive, st.fractions(Fraction(1, 4), Fraction(7, 8), max_denominator=8),  # type: ignore[no-any-return]
                     st.sampled_from([-1, 1]), st.fractions(-2, 2, max_denominator=4))


# ------------------------------------------------------------------------------------------------ assertions


def assert_next_coefficient(subject: Action | Theory, loops: int, observable: Any = None, *,
                            values: Mapping[str, Any] | None = None, samples_per_width: Any = 1,
                            widths: Sequence[int] = WIDTHS, tolerance: float = 0.05) -> None:
    r"""Assert that the error of an expansion to L loops approaches the engine's own next term.

    With ⟨O⟩ = Σ_l o_l N^{-l}, the error after L loops times N^{L+1} must approach o_{L+1}: to ``tolerance`` at the
    largest of the widths, and closer there than at the smallest.  A slope alone would pass with a wrong constant, and
    fail where the coefficient happens to vanish; where the engine says that it does, the product must fall to zero.
    The exact average is a quadrature over exp(-S) about the saddle, with at least 30 digits left after the
    cancellation.

    Parameters
    ----------
    subject
        An :class:`~fieldtheory.Action` of one scalar field with ``large`` set; or a
        :class:`~fieldtheory.Theory` that closes with one number, such as the linear network's rescaling view.
    loops
        L, the order that is kept.
    observable
        An expression in the field (for a theory: in its unknown, ``theory.closure.symbol``); "ln Z" for the log
        partition function, whose error after L loops is of order N^-L; None for ln Z, ⟨x⟩ and ⟨x²⟩.
    values
        Numbers for the other symbols, by name, and for a theory also the data, one array for each.
    samples_per_width
        For a theory: the data are repeated until P = samples_per_width · N, so that the spectrum per sample
        stays fixed.

    Raises
    ------
    AssertionError
        With the table of N, error · N^{L+1} and the expected coefficient.
    BadInput, RuleError
        For an action without a large parameter, a theory with more than one unknown, a symbol without a number.
    """
    expansion = _Expansion.of(subject, values or {}, samples_per_width)
    x = expansion.unknown
    for one in (LOG_PARTITION, x, x**2) if observable is None else (observable,):
        rows = []
        for N in widths:
            exact, terms = expansion.compare(one, loops, N)
            with mpmath.workdps(expansion.digits(loops, N)):
                next_order = max(loops, 1) if one == LOG_PARTITION else loops + 1
                scale = mpmath.mpf(N)**next_order
                rows.append((N, float((exact - mpmath.fsum(terms[:-1])) * scale), float(terms[-1] * scale)))
        _judge(str(one), loops, rows, tolerance)


def _judge(name: str, loops: int, rows: Sequence[tuple[int, float, float]], tolerance: float) -> None:
    first, last = rows[0], rows[-1]
    if last[2] == 0:
        good = abs(last[1]) <= max(tolerance * abs(first[1]), 1e-12)
    else:
        distances = [abs(found / expected - 1) for _, found, expected in (first, last)]
        good = distances[1] <= tolerance and (distances[1] <= distances[0] or distances[1] < 1e-9)
    if not good:
        table = "\n".join(f"{N:>10}  {found:+.10e}  {expected:+.10e}" for N, found, expected in rows)
        raise AssertionError(f"{name}: the error after {loops} loops does not approach the next term, times N to its "
                             f"power:\n{'N':>10}  {'error':>17}  {'next term':>17}\n{table}")


class _Expansion:
    """S(x; N) with numbers for everything else: its expansion, and its quadrature at any N.

    ``action`` is what the engine expands (data as data); ``explicit`` the same with every sum written out.
    """

    def __init__(self, action: Action, values: Mapping[str, Any], unknown: sp.Symbol, inverse: sp.Expr) -> None:
        self.action, self.values, self.unknown, self.inverse = action, values, unknown, inverse
        (self.field,) = action.fields
        self.u = sp.Dummy("u", real=True)
        self.explicit = _explicit(action.expr.xreplace({self.field: self.u}), values)
        self._tables: dict[Any, Mapping[int, sp.Expr]] = {}

    @property
    def large(self) -> sp.Symbol:
        assert self.action.large is not None
        return self.action.large

    @classmethod
    def of(cls, subject: Action | Theory, values: Mapping[str, Any], samples_per_width: Any) -> _Expansion:
        exact = {str(name): _exact(value) for name, value in values.items()}
        if isinstance(subject, Theory):
            return cls._of_theory(subject, exact, samples_per_width)
        if not isinstance(subject, Action):
            raise BadInput("subject", type(subject).__name__, "an Action or a Theory")
        if len(subject.fields) != 1 or (isinstance(subject.fields[0], Entry) and subject.fields[0].spaces):
            raise RuleError("the next coefficient is judged for an action of one scalar field")
        if subject.large is None:
            raise BadInput("large", None, "an action with its large parameter: Action(..., large=N)")
        (field,) = subject.fields
        numbers = {symbol: exact[symbol.name] for symbol in subject.expr.free_symbols if symbol.name in exact}
        action = Action(subject.expr.xreplace(numbers), [field], large=subject.large)
        _complete(action.expr.free_symbols - {field, subject.large}, {})
        return cls(action, {}, field, field)  # type: ignore[arg-type]

    @classmethod
    def _of_theory(cls, theory: Theory, values: Mapping[str, Any], samples_per_width: Any) -> _Expansion:
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
        inverse = inverse.xreplace({dummy: closure.field})
        return cls(Action(expr, [closure.field], large=N), values, closure.symbol, inverse)

    def digits(self, loops: int, N: int) -> int:
        """30 digits are left of an error of relative order N^-(L+2)."""
        return 30 + math.ceil((loops + 2) * math.log10(N))

    def compare(self, observable: Any, loops: int, N: int) -> tuple[Any, list[Any]]:
        """The exact value, and the terms through one loop more than is kept."""
        if isinstance(observable, str) and observable != LOG_PARTITION:
            raise BadInput("observable", observable, f"an expression in {self.unknown}, or {LOG_PARTITION!r}")
        log_partition = observable == LOG_PARTITION
        target = sp.S.One if log_partition else sp.sympify(observable).xreplace({self.unknown: self.inverse})
        digits = self.digits(loops, N)
        extent = max(loops, 1) if log_partition else loops + 1
        with mpmath.workdps(digits + 15):
            S = self._function(self.explicit, N)
            saddle, curvature = self._saddle(S, N)
            logarithm, average = self._quadrature(S, self._function(
                _explicit(target.xreplace({self.field: self.u}), self.values), N), saddle, curvature, digits)
        values = {**self.values, self.large.name: N}
        if not self.values:  # no data: through the front door
            series = self.action.log_partition(extent + 1) if log_partition else self.action.expectation(target, extent)
            terms = list(series.evaluate_terms(values, digits))
        else:
            if (observable, extent) not in self._tables:
                expansion = ScalarExpansion.of(self.action.expr, self.field, extent)
                found = expansion.log_partition() if log_partition else expansion.expectation(target)
                self._tables[observable, extent] = found
            table, at = self._tables[observable, extent], {**values, self.field: saddle}
            terms = [numerical_value(table.get(order, sp.S.Zero), at, digits)
                     for order in range(1 if log_partition else 0, extent + 1)]
        return logarithm if log_partition else average, terms

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

    @staticmethod
    def _quadrature(S: Callable[[Any], Any], target: Callable[[Any], Any], saddle: Any, curvature: Any,
                    digits: int) -> tuple[Any, Any]:
        """ln Z relative to the Gaussian, and ⟨O⟩, by the trapezoidal rule, which converges geometrically here."""
        # In standard deviations, a step h errs by exp(-2π²/h²) and a range r by exp(-r²/2), were it a Gaussian.
        decay = (digits + 5) * math.log(10)
        # Not a float: nodes that are equidistant to 16 digits only would leave an error of that size.
        h, reach = mpmath.mpf(0.8 * math.pi * math.sqrt(2 / decay)), 1.2 * math.sqrt(2 * decay)
        floor, scale, half = S(saddle), 1 / mpmath.sqrt(curvature), math.ceil(reach / h)
        positions = [k * h for k in range(-half, half + 1)]
        norm, total = mpmath.mpf(0), mpmath.mpf(0)
        before: tuple[Any, Any] | None = None
        for _ in range(7):  # halve the step until it no longer matters, which is at once where S is nearly quadratic
            nodes = [saddle + position * scale for position in positions]
            weights = [mpmath.exp(floor - S(node)) for node in nodes]
            norm += mpmath.fsum(weights)
            total += mpmath.fsum(weight * target(node) for weight, node in zip(weights, nodes, strict=True))
            found = mpmath.log(norm * h) - mpmath.log(2 * mpmath.pi) / 2, total / norm
            if before and max(abs(a - b) for a, b in zip(found, before, strict=True)) < mpmath.mpf(10)**(-digits):
                return found
            before, h = found, h / 2
            positions = [(2 * k + 1) * h for k in range(-half, half)]
            half *= 2
        raise NotConverged("the average over exp(-S)", float(max(abs(found[0]), abs(found[1]))))


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
