"""The posterior of one scalar, Q = sum_i a_i^2, by quadrature to any number of digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, NotConverged

Array = NDArray[np.float64]

_BLOCK = 2_000_000  # entries of a (modes, nodes) temporary
_MOST_NODES = 2**18
_TINY = float(np.finfo(np.float64).tiny)


class Backend:
    """What the quadrature needs of its number system: float64 arrays, or object arrays of mpf."""

    def __init__(self, digits: int | None, magnitude: float) -> None:
        # The log density is of size N, and its error relative to 1 is what counts: hence the guard digits.
        self.dps = None if digits is None else digits + 12 + math.ceil(math.log10(magnitude))
        self.tolerance = 1e-11 if digits is None else 10.0**-digits
        self.drop = 50.0 if digits is None else 2.4 * digits + 20.0

    def working(self) -> Any:
        """The context in which numbers of this backend are combined."""
        return mpmath.workdps(self.dps or mpmath.mp.dps)

    def array(self, values: Any) -> NDArray[Any]:
        if self.dps is None:
            return np.array(values, dtype=np.float64)
        return np.array([_mpf(value) for value in values], dtype=object)

    def number(self, value: Any) -> Any:
        return float(value) if self.dps is None else _mpf(value)

    def exp(self, t: NDArray[Any]) -> NDArray[Any]:
        return np.exp(t) if self.dps is None else np.frompyfunc(mpmath.exp, 1, 1)(t)

    def expm1(self, t: NDArray[Any]) -> NDArray[Any]:
        return np.expm1(t) if self.dps is None else np.frompyfunc(mpmath.expm1, 1, 1)(t)

    def log_ratio(self, v: NDArray[Any], v0: NDArray[Any], difference: NDArray[Any]) -> NDArray[Any]:
        """ln(v / v0) to full relative precision, also where v is close to v0."""
        if self.dps is not None:
            return np.frompyfunc(mpmath.log, 1, 1)(v / v0)
        small = difference / v0
        near = np.abs(small) < 0.5
        return np.where(near, np.log1p(np.where(near, small, 0.0)), np.log(v / v0))


def _mpf(value: Any) -> mpmath.mpf:
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return mpmath.mpf(value.item() if isinstance(value, np.generic) else value)


class QPosterior:
    """The posterior of Q = sum_i a_i^2 of a linear network of width N, given the modes of K and y.

    Equation: with t = ln(Q/g) and v_k = Q lambda_k + s, the log density in t is
        L(t) = (N/2)(t - e^t) - (1/2) sum_k m_k (ln v_k + y_k^2 / v_k) + const, and L has poles only off the
        real axis, so that the trapezoidal rule converges geometrically on every interval where L is within
        `drop` of its maximum. All maxima are found first: by scanning L' and L'' on a grid finer than the
        scale 1 on which they vary.
    Shapes: eigenvalues, targets and multiplicity are (modes,); `multiplicity` counts modes that share an
        eigenvalue and a target, so a repeated spectrum of any P costs its distinct modes only.
    Scaling: g = N Var(a_i) and s, the noise variance, are the effective values, powers of N applied.
    Validity: N >= 1; eigenvalues >= 0 (negative by rounding counts as 0); s = 0 where the posterior of Q
        exists (y in the range of K, and not zero unless N exceeds the rank), and then `log_evidence` is +inf
        if K is singular.
    Precision: float64 with digits=None; otherwise mpmath with guard digits, where results are mpf and numbers
        may be given as mpf, Fractions, strings or ints. `residual` is the largest relative change on the last
        halving of the step, over everything computed so far.
    Errors: BadInput naming the argument; NotConverged when halving the step does not settle.
    """

    def __init__(
        self,
        eigenvalues: ArrayLike | Sequence[Any],
        targets: ArrayLike | Sequence[Any],
        width: int,
        g: Any,
        s: Any,
        digits: int | None = None,
        *,
        multiplicity: ArrayLike | None = None,
    ) -> None:
        if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
            raise BadInput("width", repr(width), "an integer >= 1")
        if digits is not None and (isinstance(digits, bool) or not isinstance(digits, int) or digits < 1):
            raise BadInput("digits", repr(digits), "None for float64, or an integer >= 1")
        self.width, self.digits = int(width), digits
        shape = np.shape(np.asarray(eigenvalues, dtype=object))
        if len(shape) != 1 or not shape[0]:
            raise BadInput("eigenvalues", f"shape {shape}", "a vector of at least one mode")
        if (other := np.shape(np.asarray(targets, dtype=object))) != shape:
            raise BadInput("targets", f"shape {other}", f"shape {shape}, as the eigenvalues")
        counts = np.ones(shape, dtype=np.int64) if multiplicity is None else np.asarray(multiplicity)
        if counts.shape != shape or counts.dtype.kind not in "iu" or np.any(counts < 1):
            raise BadInput(
                "multiplicity", f"{counts.dtype} of shape {counts.shape}", f"integers >= 1, shape {shape}"
            )
        self.backend = Backend(digits, float(width) + float(counts.sum()))
        with self.backend.working():
            given: dict[str, Any] = {"eigenvalues": eigenvalues, "targets": targets, "g": [g], "s": [s]}
            for name, values in given.items():
                try:
                    given[name] = self.backend.array(values)
                except (TypeError, ValueError):
                    raise BadInput(name, f"a {type(values).__name__}", "real numbers") from None
            lam, y, (self.g,), (self.s,) = given.values()
            for name, values in given.items():
                if not np.all(np.isfinite(np.array(values, dtype=np.float64))):
                    raise BadInput(name, "NaN or infinite entries", "finite numbers")
            rounding = 1e-12 * max(lam) if self.digits is None else 0
            for name, least in {"eigenvalues": min(lam) + rounding, "s": self.s, "g": self.g}.items():
                if least < 0 or (name == "g" and least == 0):
                    raise BadInput(name, f"{float(least):.6g}", f"a number {'>' if name == 'g' else '>='} 0")
            live = np.array([bool(value > 0) for value in lam])
            self._lam, self._y2, self._m = lam[live], y[live] ** 2, counts[live]
            self.null_count = int(counts[~live].sum())
            self.null_y2 = (counts[~live] * y[~live] ** 2).sum() + 0 * self.s
        self.samples = int(counts.sum())
        if self.s == 0:
            self._refuse_zero_noise()
        # Scanning needs float64 only, whatever the precision of the quadrature.
        self._float = tuple(np.array(a, dtype=np.float64) for a in (self._lam, self._y2, self._m))
        self._gf, self._sf = float(self.g), float(self.s)
        self.residual = 0.0
        self._drop = self.backend.drop
        self._critical = self._critical_points()
        self._grids: list[tuple[NDArray[Any], NDArray[Any], Any]] = []
        self._build()
        self._converge_evidence()

    # -------------------------------------------------------------------------------------- what it answers

    @cached_property
    def log_evidence(self) -> Any:
        """ln Z = ln E_Q N(y; 0, QK + s), prior and likelihood normalised; float, or mpf with `digits`."""
        with self.backend.working():
            if self.s == 0 and self.null_count:
                return self.backend.number("inf")
            total = sum((w.sum() * h for _, w, h in self._weights()), self.backend.number(0))
            log = math.log if self.digits is None else mpmath.log
            return self._rounded(self._log_peak() + log(total))

    @cached_property
    def mean(self) -> Any:
        """<Q>, the posterior mean of the squared readout norm."""
        return self.expect(lambda Q: Q)

    @cached_property
    def stationary_points(self) -> Array:
        """Every Q where the density in ln Q is stationary, ascending: maximum, minimum, ..., maximum."""
        return self._gf * np.exp([t for t, _ in self._critical])

    def expect(self, function: Callable[[Any], Any]) -> Any:
        """<function(Q)>, where `function` takes one Q (float, or mpf with `digits`) to a number or a vector.

        Returns a float or an array of the function's shape; with `digits`, an mpf or a list of mpf. A
        function that returns a tuple is averaged entry by entry, each converged by its own size.

        Errors: NotConverged when the step cannot be halved often enough, or the average does not exist.
        """
        before, rounding = math.inf, 1e2 * self.backend.tolerance
        while True:
            with self.backend.working():
                averages, change, edge = self._average(function)
            if edge > 1e-3 * self.backend.tolerance:  # the function outgrows the tail that was kept
                self._drop *= 2
                if self._drop > 8 * self.backend.drop:
                    raise NotConverged("an average over Q whose integrand does not decay", edge)
                self._build()
            elif change <= self.backend.tolerance or 0.1 * before < change <= rounding:
                break  # converged, or down at the rounding of a function that cancels
            elif not self._halve():
                raise NotConverged("an average over Q", change)
            before = change
        self.residual = max(self.residual, change)
        results = tuple(self._rounded(value) for value in averages[0])
        return results if averages[1] else results[0]

    def nodes(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Nodes Q (n,) and weights p (n,) of sum 1 at the step reached so far: <h(Q)> ~ sum_i p_i h(Q_i)."""
        with self.backend.working():
            Q = np.concatenate([self.g * self.backend.exp(t) for t, _, _ in self._weights()])
            p = np.concatenate([w * h for _, w, h in self._weights()])
            return Q, p / p.sum()

    # ------------------------------------------------------------------------------------------- the density

    def _refuse_zero_noise(self) -> None:
        if self.null_y2 > 0:
            reason = "y leaves the range of K and no weights fit it exactly"
        elif not any(value > 0 for value in self._y2) and self.width <= int(self._m.sum()):
            reason = "at y = 0 and width <= rank K the posterior of Q is not normalisable"
        else:
            return
        raise BadInput("noise_variance", 0, f"a positive number, because {reason}")

    def _slopes(self, t: Array) -> tuple[Array, Array]:
        """L'(t) and L''(t), float64: a = Q lambda / v, L' = (N/2)(1 - e^t) - (1/2) sum m a (1 - y^2/v)."""
        lam, y2, m = self._float
        first, second = -0.5 * self.width * np.expm1(t), -0.5 * self.width * np.exp(t)
        step = max(1, _BLOCK // max(1, len(lam)))
        for i in range(0, len(t), step):
            part = slice(i, i + step)
            signal = self._gf * np.exp(t[part, None]) * lam
            v = np.maximum(signal + self._sf, _TINY)
            a, fit = signal / v, y2 / v
            first[part] -= 0.5 * (a * (1 - fit)) @ m
            second[part] -= 0.5 * (a * ((1 - a) * (1 - fit) + a * fit)) @ m
        return first, second

    def _critical_points(self) -> list[tuple[float, float]]:
        """Every zero t of L', ascending, each with L''(t)."""
        lam, y2, m = self._float
        N, g, s = self.width, self._gf, self._sf
        with np.errstate(over="ignore", divide="ignore"):
            Y = float(np.sum(m * y2 / (g * lam)))
            if s == 0:
                b = N - m.sum()  # L' = 0 is -N x^2 + b x + Y = 0 in x = e^t
                root = math.sqrt(b * b + 4 * N * Y)
                low = high = math.log((b + root) / (2 * N) if b > 0 else 2 * Y / (root - b))
            else:
                low = -float(
                    np.logaddexp(0.0, np.log(np.sum(m * lam)) + math.log(g) - math.log(s) - math.log(N))
                )
                cap = float(np.sum(m * np.minimum(y2 / (g * lam), y2 / (4 * s)))) / N
                high = min(math.log1p(cap), float(np.log(0.5 + np.sqrt(0.25 + Y / N))))
        grid = np.linspace(low - 0.5, high + 0.5, 2 + math.ceil((high - low + 1) / 0.08))
        first, second = self._slopes(grid)
        found: list[float] = []

        def slope(t: float) -> float:
            return float(self._slopes(np.array([t]))[0][0])

        def bend(t: float) -> float:
            return float(self._slopes(np.array([t]))[1][0])

        for i in range(len(grid) - 1):
            left, right = grid[i], grid[i + 1]
            if first[i] == 0:
                found.append(left)
            if first[i] * first[i + 1] < 0:
                found.append(_root(slope, left, right))
            elif second[i] * second[i + 1] < 0:  # L' turns inside the cell: it may touch zero twice
                turn = _root(bend, left, right)
                if slope(turn) * first[i] < 0:
                    found += [_root(slope, left, turn), _root(slope, turn, right)]
        return [(t, bend(t)) for t in sorted(found)]

    def _relative(self, t: NDArray[Any], t0: Any, *, exact: bool = True) -> NDArray[Any]:
        """L(t) - L(t0), each term as a difference, so that its error is small against 1 even at N = 10^6."""
        backend = self.backend if exact else Backend(None, 1)
        lam, y2, m = (self._lam, self._y2, self._m) if exact else self._float
        g, s = (self.g, self.s) if exact else (self._gf, self._sf)
        tau = t - t0
        growth, Q0 = backend.expm1(tau), g * backend.exp(np.array([t0]))[0]
        result = (tau - (Q0 / g) * growth) * self.width / 2
        step = max(1, _BLOCK // max(1, len(lam)))
        signal0 = lam * Q0
        v0 = signal0 + s
        for i in range(0, len(t), step):
            part = slice(i, i + step)
            difference = growth[part, None] * signal0
            v = backend.exp(tau[part])[:, None] * signal0 + s
            if backend.dps is None:
                v = np.maximum(v, _TINY)
            terms = backend.log_ratio(v, v0, difference) - y2 / v0 * (difference / v)
            result[part] -= (terms * m).sum(axis=1) / 2
        return result

    def _log_peak(self) -> Any:
        """The joint log density of (t, y) at the reference point, constants included."""
        t0, n = self.backend.number(self._reference), self.width / 2
        Q0 = self.g * self.backend.exp(np.array([t0]))[0]
        v = self._lam * Q0 + self.s
        if self.digits is None:
            prior = n * (t0 - math.expm1(t0)) + _log_gamma_constant(n)
            logs, two_pi_log = np.log(v), math.log(2 * math.pi)
            null_log = math.log(self.s) if self.null_count else 0.0
        else:
            n = mpmath.mpf(self.width) / 2
            prior = n * (t0 - mpmath.exp(t0)) + n * mpmath.log(n) - mpmath.loggamma(n)
            logs, two_pi_log = np.frompyfunc(mpmath.log, 1, 1)(v), mpmath.log(2 * mpmath.pi)
            null_log = mpmath.log(self.s) if self.null_count else 0
        quadratic = ((logs + self._y2 / v) * self._m).sum()
        null = null_log * self.null_count + (self.null_y2 / self.s if self.null_count else 0)
        return prior - (quadratic + null + self.samples * two_pi_log) / 2

    # ---------------------------------------------------------------------------------------- the quadrature

    def _build(self) -> None:
        """Intervals on which L is within `drop` of its maximum, and a first uniform grid on each."""
        maxima = [(t, bend) for t, bend in self._critical if bend <= 0] or self._critical[:1]
        points = np.array([t for t, _ in maxima])
        heights = self._relative(points, points[0], exact=False)
        best = float(heights.max())
        self._reference = float(points[int(heights.argmax())])
        pieces: list[list[float]] = []
        for (t, bend), height in zip(maxima, heights, strict=True):
            if height < best - self._drop:
                continue
            scale = min(0.5, 1 / math.sqrt(-bend)) if bend < 0 else 0.5
            low, high = self._edge(t, -2 * scale), self._edge(t, 2 * scale)
            if pieces and low <= pieces[-1][1]:
                pieces[-1][1:] = [max(high, pieces[-1][1]), min(scale, pieces[-1][2])]
            else:
                pieces.append([low, high, scale])
        self._grids = []
        for low, high, scale in pieces:
            count = math.ceil((high - low) / (0.7 * scale))
            with self.backend.working():
                start, h = self.backend.number(low), self.backend.number(high - low) / count
                t = start + h * np.arange(count + 1)
                self._grids.append((t, self._relative(t, self.backend.number(self._reference)), h))
        self._halve()

    def _edge(self, t: float, step: float) -> float:
        """A point just beyond where L has fallen by `drop` from its maximum, going from t by step."""

        def low(at: float) -> bool:
            return bool(self._relative(np.array([at]), self._reference, exact=False)[0] < -self._drop)

        inner, outer = t, t + step
        while not low(outer):
            inner, outer, step = outer, outer + 2 * step, 2 * step
        while abs(outer - inner) > 0.02 * abs(outer - t):
            middle = 0.5 * (inner + outer)
            inner, outer = (inner, middle) if low(middle) else (middle, outer)
        return outer

    def _halve(self) -> bool:
        """Halve every step, reusing the nodes; False when there would be too many."""
        if 2 * sum(len(t) for t, _, _ in self._grids) > _MOST_NODES:
            return False
        grids = []
        with self.backend.working():
            for t, log, h in self._grids:
                middle = t[:-1] + h / 2
                added = self._relative(middle, self.backend.number(self._reference))
                both = [np.empty(2 * len(t) - 1, dtype=t.dtype) for _ in range(2)]
                for array, old, new in zip(both, (t, log), (middle, added), strict=True):
                    array[::2], array[1::2] = old, new
                grids.append((both[0], both[1], h / 2))
        self._grids = grids
        return True

    def _weights(self) -> list[tuple[NDArray[Any], NDArray[Any], Any]]:
        return [(t, self.backend.exp(log), h) for t, log, h in self._grids]

    def _converge_evidence(self) -> None:
        while True:
            with self.backend.working():
                grids = self._weights()
                fine = sum(w.sum() * h for _, w, h in grids)
                change = float(abs(sum(w[::2].sum() * 2 * h for _, w, h in grids) / fine - 1))
            if change <= self.backend.tolerance:
                break
            if not self._halve():
                raise NotConverged("the evidence integral over Q", change)
        self.residual = max(self.residual, change)

    def _average(
        self, function: Callable[[Any], Any]
    ) -> tuple[tuple[list[NDArray[Any]], bool], float, float]:
        """Averages of each entry of `function`, their change on the last halving, the share of end points."""
        kind = np.float64 if self.digits is None else object
        fine: list[Any] = []
        coarse: list[Any] = []
        size: list[Any] = []
        ends: list[float] = []
        total = half = self.backend.number(0)
        is_tuple = False
        for t, w, h in self._weights():
            Q = self.g * self.backend.exp(t)
            if Q[0] == 0:
                raise NotConverged("an average over Q that reaches below the smallest float", math.inf)
            total, half = total + w.sum() * h, half + w[::2].sum() * 2 * h
            for i in range(len(t)):
                value = function(float(Q[i]) if self.digits is None else Q[i])
                is_tuple = isinstance(value, tuple)
                entries = [np.asarray(entry, dtype=kind) for entry in (value if is_tuple else (value,))]
                if not fine:
                    fine, coarse, size = ([0 * entry for entry in entries] for _ in range(3))
                    ends = [0.0] * len(entries)
                for k, entry in enumerate(entries):
                    term = entry * (w[i] * h)
                    fine[k] = fine[k] + term
                    size[k] = size[k] + abs(term)
                    if i % 2 == 0:
                        coarse[k] = coarse[k] + 2 * term
                    if i in (0, len(t) - 1):
                        ends[k] = max(ends[k], float(np.max(abs(term), initial=0)))
        change = edge = 0.0
        for k in range(len(fine)):
            scale = np.max(size[k], initial=0)
            if not np.isfinite(float(scale)):
                raise NotConverged("an average over Q of a function that is not finite", math.inf)
            if scale > 0:
                gap = np.max(abs(fine[k] / total - coarse[k] / half), initial=0)
                change, edge = max(change, float(gap / (scale / total))), max(edge, ends[k] / float(scale))
        return ([entry / total for entry in fine], is_tuple), change, edge

    def _rounded(self, value: Any) -> Any:
        """Results as callers see them: floats and arrays, or mpf and lists of mpf at the digits asked for."""
        if self.digits is None:
            return float(value) if np.ndim(value) == 0 else np.asarray(value, dtype=np.float64)
        with mpmath.workdps(self.digits + 3):
            array = np.asarray(value, dtype=object)
            return +array.item() if array.ndim == 0 else [+entry for entry in array.ravel()]


def _root(function: Callable[[float], float], left: float, right: float) -> float:
    """A zero of `function` between points where its signs differ, by bisection to rounding."""
    rising = function(left) < 0
    while left < (middle := 0.5 * (left + right)) < right and right - left > 1e-15:
        left, right = (middle, right) if (function(middle) < 0) == rising else (left, middle)
    return middle


def _log_gamma_constant(n: float) -> float:
    """n ln n - n - ln Gamma(n) without cancellation: the normalisation of the prior of ln Q, n = N/2."""
    if n < 20:
        return n * math.log(n) - n - math.lgamma(n)
    series = 1 / (12 * n) - 1 / (360 * n**3) + 1 / (1260 * n**5) - 1 / (1680 * n**7)
    return 0.5 * math.log(n / (2 * math.pi)) - series
