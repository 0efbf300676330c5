"""Data: a `Dataset` of inputs and targets, with its kernel and spectrum.

The linear theory sees data only through K = (weight_variance / D) X X^T and y. In the eigenbasis of K
everything is a sum over modes, so a `Spectrum` is what theories and oracles consume.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, CorruptFile

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)


def _frozen(argument: str, value: ArrayLike, shape: tuple[int | None, ...], expected: str) -> Array:
    """A read-only float64 C-contiguous copy of `value`, checked: kind, shape (None: any size), finite."""
    try:
        raw = np.asarray(value)
    except ValueError:  # ragged nested sequences
        raise BadInput(argument, "a ragged sequence", expected) from None
    if raw.dtype.kind not in "biuf":
        raise BadInput(argument, f"an array of {raw.dtype}", expected)
    if raw.ndim != len(shape) or any(want not in (None, n) for want, n in zip(shape, raw.shape, strict=True)):
        raise BadInput(argument, f"shape {raw.shape}", expected)
    array = np.array(raw, dtype=np.float64, order="C")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise BadInput(argument, f"{bad} NaN or infinite entries", "finite numbers")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Spectrum:
    """K and y in the eigenbasis of K: K = U diag(lambda_1..lambda_r) U^T, r = rank K.

    Shapes: eigenvalues (P,) descending with exact zeros beyond r; basis U (P, r); target_modes (P,): U^T y,
        then |y_perp| in entry r (when r < P), then zeros, which is a legal rotation because lambda = 0 on
        the whole null space; null_direction (P,): y_perp / |y_perp|, zero when y lies in the range of K;
        test_basis (P_test, r): K_* U, or None without test inputs.
    Scaling: eigenvalues and test_basis are proportional to weight_variance, the rest does not depend on it.
    """

    eigenvalues: Array
    basis: Array
    target_modes: Array
    null_direction: Array
    test_basis: Array | None = None

    @property
    def rank(self) -> int:
        """r, the number of non-zero eigenvalues."""
        return self.basis.shape[1]

    @property
    def samples(self) -> int:
        """P."""
        return self.basis.shape[0]

    def scaled(self, weight_variance: float) -> Spectrum:
        """The spectrum of weight_variance * K; arrays that do not change are shared."""
        test = None if self.test_basis is None else weight_variance * self.test_basis
        return Spectrum(
            weight_variance * self.eigenvalues, self.basis, self.target_modes, self.null_direction, test
        )

    def from_modes(self, modes: ArrayLike) -> Array:
        """Mode coefficients (..., P) to samples (..., P): entry r along y_perp, later ones nowhere."""
        c, r = np.asarray(modes, dtype=np.float64), self.rank
        samples = c[..., :r] @ self.basis.T
        return samples if r == self.samples else samples + c[..., r, None] * self.null_direction

    def test_from_modes(self, modes: ArrayLike) -> Array:
        """Mode coefficients (..., P) of v to K_* v at the test inputs (..., P_test)."""
        if self.test_basis is None:
            raise BadInput("X_test", None, "a dataset with test inputs")
        return np.asarray(modes, dtype=np.float64)[..., : self.rank] @ self.test_basis.T


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs X (P, D) with targets y (P,), optionally test inputs (P_test, D) with targets (P_test,).

    Arrays are copied, float64, C-contiguous and read-only. A dataset made by `from_kernel` has a kernel in
    place of inputs: then `X` and `input_dim` are None. `orders` are the orders of the modes that make up the target,
    in the basis of the inputs' law (k for a parity of k inputs, n for a Hermite polynomial), empty where not known.

    Errors: BadInput naming the argument for NaN or infinite entries, shapes that disagree, P = 0, or arrays
        that are not real numbers.
    """

    X: Array | None
    y: Array
    X_test: Array | None = None
    y_test: Array | None = None
    name: str = field(default="custom", kw_only=True)
    orders: tuple[int, ...] = field(default=(), kw_only=True)
    _gram: Array | None = field(default=None, kw_only=True)
    _gram_test: Array | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if self._gram is None:
            if self.X is None:
                raise BadInput(
                    "X", None, "inputs of shape (P, D); Dataset.from_kernel takes a kernel instead"
                )
            X = _frozen("X", self.X, (None, None), "a real array of shape (P, D)")
            P, D = X.shape
            if P < 1 or D < 1:
                raise BadInput("X", f"shape {X.shape}", "at least one sample and one input dimension")
            keep("X", X)
            if self.X_test is not None:
                keep(
                    "X_test",
                    _frozen("X_test", self.X_test, (None, D), f"a real array of shape (P_test, {D})"),
                )
            P_test = None if self.X_test is None else len(self.X_test)
        else:
            P, P_test = len(self._gram), None if self._gram_test is None else len(self._gram_test)
        keep("y", _frozen("y", self.y, (P,), f"a real array of shape ({P},)"))
        if self.y_test is not None:
            if P_test is None:
                raise BadInput(
                    "y_test", f"{np.size(self.y_test)} targets and no test inputs", "X_test as well"
                )
            keep("y_test", _frozen("y_test", self.y_test, (P_test,), f"a real array of shape ({P_test},)"))

    @classmethod
    def from_kernel(
        cls,
        K: ArrayLike,
        y: ArrayLike,
        K_test: ArrayLike | None = None,
        y_test: ArrayLike | None = None,
        *,
        name: str = "custom",
    ) -> Dataset:
        """A dataset known by its kernel K (P, P), and K_test (P_test, P), at weight_variance = 1: X X^T / D.

        Errors: BadInput naming K when it is not square, not symmetric (to 1e-10 of its largest entry) or
            indefinite (an eigenvalue below -1e-10 of the largest), besides those of `Dataset`.
        """
        K = _frozen("K", K, (None, None), "a real array of shape (P, P)")
        P = len(K)
        if P < 1 or K.shape != (P, P):
            raise BadInput("K", f"shape {K.shape}", "a square matrix with at least one row")
        skew, size = float(np.abs(K - K.T).max()), float(np.abs(K).max())
        if skew > 1e-10 * size:
            raise BadInput("K", f"a matrix with |K - K^T| up to {skew:.3g}", "a symmetric matrix")
        symmetric = 0.5 * (K + K.T)
        symmetric.setflags(write=False)
        if K_test is not None:
            K_test = _frozen("K_test", K_test, (None, P), f"a real array of shape (P_test, {P})")
        targets: Any = (y, y_test)  # checked and converted by the constructor
        data = cls(None, targets[0], None, targets[1], name=name, _gram=symmetric, _gram_test=K_test)
        _ = data._unit_spectrum  # indefinite kernels are refused here, not at first use
        return data

    @property
    def samples(self) -> int:
        """P."""
        return len(self.y)

    def with_bias(self, ratio: float) -> Dataset:
        """The data with one constant input more, which acts as the biases of a network that has none itself.

        Equation: K = (weight_variance / D) X X^T + bias_variance 1 1^T at ratio = bias_variance / weight_variance;
            the inputs are rescaled so that weight_variance keeps its meaning at dimension D + 1.
        Errors: BadInput when the ratio is not a finite number >= 0.
        """
        if isinstance(ratio, bool) or not isinstance(ratio, int | float | np.number) or not 0 <= ratio < np.inf:
            raise BadInput("ratio", repr(ratio), "bias_variance / weight_variance, a finite number >= 0")
        if self.X is None:
            assert self._gram is not None
            test = None if self._gram_test is None else self._gram_test + ratio
            return Dataset.from_kernel(self._gram + ratio, self.y, test, self.y_test, name=self.name)
        stretch, constant = np.sqrt(1 + 1 / self.X.shape[1]), np.sqrt(ratio * (self.X.shape[1] + 1))

        def lift(X: Array) -> Array:
            return np.column_stack([stretch * X, np.full(len(X), constant)])

        X_test = None if self.X_test is None else lift(self.X_test)
        return Dataset(lift(self.X), self.y, X_test, self.y_test, name=self.name)

    @property
    def test_samples(self) -> int:
        """P_test, zero without test inputs."""
        test = self._gram_test if self.X is None else self.X_test
        return 0 if test is None else len(test)

    @property
    def input_dim(self) -> int | None:
        """D, or None for a dataset known only by its kernel."""
        return None if self.X is None else self.X.shape[1]

    def __repr__(self) -> str:
        test = f", test_samples={self.test_samples}" if self.test_samples else ""
        return f"Dataset({self.name!r}, samples={self.samples}, input_dim={self.input_dim}{test})"

    def kernel(self, weight_variance: float) -> Array:
        """K = (weight_variance / D) X X^T, shape (P, P)."""
        if self.X is None:
            assert self._gram is not None
            return weight_variance * self._gram
        return (weight_variance / self.X.shape[1]) * (self.X @ self.X.T)

    def test_kernel(self, weight_variance: float) -> Array | None:
        """K_* = (weight_variance / D) X_test X^T, shape (P_test, P), or None without test inputs."""
        if self.X is None:
            return None if self._gram_test is None else weight_variance * self._gram_test
        return None if self.X_test is None else (weight_variance / self.X.shape[1]) * (self.X_test @ self.X.T)

    def spectrum(self, weight_variance: float) -> Spectrum:
        """Eigen-decomposition of K, computed once per dataset and scaled.

        Cost: O(P min(P, D)^2), memory one basis (P, r) beside X and a workspace of two (P, P) when P <= D.
        Validity: eigenvalues below max(P, D) eps of the largest (its square, when P > D and K is factorised
            through X) are taken to be zero.
        """
        return self._unit_spectrum.scaled(float(weight_variance))

    @cached_property
    def _unit_spectrum(self) -> Spectrum:
        P, D = self.samples, self.input_dim or self.samples
        if self.X is None or P <= D:
            values, U = _symmetric_modes(np.array(self.kernel(1.0)), check=self.X is None)
        else:
            # U stays orthonormal to rounding through QR, which X V / sqrt(lambda) would not at small lambda.
            Q, R = scipy.linalg.qr(self.X, mode="economic", check_finite=False)
            left, sigma, _ = scipy.linalg.svd(R, full_matrices=False, overwrite_a=True, check_finite=False)
            keep = sigma > P * EPS * sigma[0] if sigma[0] > 0 else np.zeros(D, dtype=np.bool_)
            values, U = sigma[keep] ** 2 / D, Q @ left[:, keep]
        r = len(values)
        modes, null = np.zeros(P), np.zeros(P)
        modes[:r] = U.T @ self.y
        if r < P:
            perp = self.y - U @ modes[:r]
            perp -= U @ (U.T @ perp)
            norm = float(np.linalg.norm(perp))
            if norm > max(P, D) * EPS * np.linalg.norm(self.y):
                modes[r], null = norm, perp / norm
        eigenvalues = np.zeros(P)
        eigenvalues[:r] = values
        K_test = self.test_kernel(1.0)
        test = None if K_test is None else K_test @ U
        for array in (eigenvalues, U, modes, null, test):
            if array is not None:
                array.setflags(write=False)
        return Spectrum(eigenvalues, U, modes, null, test)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an .npz (X, y, X_test, y_test; or K, K_test for inputs), whole or not at all; its path."""
        path = Path(path)
        arrays: dict[str, Any] = {"y": self.y, "y_test": self.y_test, "name": np.array(self.name)}
        if self.orders:
            arrays["orders"] = np.array(self.orders)
        if self.X is not None:
            arrays |= {"X": self.X, "X_test": self.X_test}
        else:
            arrays |= {"K": self._gram, "K_test": self._gram_test}
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **{key: value for key, value in arrays.items() if value is not None})
            os.replace(draft, path)
        except BaseException:  # an interrupt too must leave no half-written file
            Path(draft).unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dataset:
        """Read an .npz with X (P, D) and y (P,), optionally X_test and y_test; or K and K_test in place of
        inputs.

        Pickled objects are never opened.

        Errors: BadInput when the file or an array is missing, when there is an array that would not be read,
            or an array holds objects; CorruptFile when it is not an .npz.
        """
        path = Path(path)
        if not path.is_file():
            raise BadInput("path", str(path), "an existing .npz file")
        try:
            archive = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            archive = None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CorruptFile(f"{path}: not an .npz archive of arrays")
        arrays: dict[str, Any] = {}
        with archive:
            inputs = "K" if "K" in archive.files and "X" not in archive.files else "X"
            unread = set(archive.files) - {inputs, f"{inputs}_test", "y", "y_test", "name", "orders"}
            if unread:  # a misspelt name would otherwise be an array silently left out
                raise BadInput(
                    "arrays",
                    f"{', '.join(sorted(unread))} in {path.name}",
                    "X, y and optionally X_test, y_test, name; or K, K_test in place of X, X_test",
                )
            for key in archive.files:
                try:
                    arrays[key] = archive[key]
                except ValueError as error:
                    if "allow_pickle" in str(error):
                        raise BadInput(key, "an array of objects", "an array of real numbers") from None
                    raise CorruptFile(f"{path}: array {key} cannot be read") from None
                except (OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile):
                    raise CorruptFile(f"{path}: array {key} cannot be read") from None
        name = str(arrays.pop("name", path.stem))
        orders = tuple(int(n) for n in np.atleast_1d(arrays.pop("orders", np.array([], dtype=int))))
        for key in (inputs, "y"):
            if key not in arrays:
                raise BadInput(
                    key, f"no array of that name in {path.name}", "an .npz with X (P, D) and y (P,)"
                )
        given = (arrays[inputs], arrays["y"], arrays.get(f"{inputs}_test"), arrays.get("y_test"))
        return cls.from_kernel(*given, name=name) if inputs == "K" else cls(*given, name=name, orders=orders)


def check_dataset(data: Any) -> None:
    """BadInput naming `data` for anything that is no `Dataset`, such as a pair (X, y)."""
    if not isinstance(data, Dataset):
        raise BadInput(
            "data", type(data).__name__, "a Dataset (ft.Dataset(X, y), ft.tasks.ising(...), ...)"
        )


def _symmetric_modes(K: Array, *, check: bool = False) -> tuple[Array, Array]:
    """Non-zero eigenvalues, descending, and their eigenvectors as columns; K is overwritten."""
    P = len(K)
    values, vectors = scipy.linalg.eigh(K, overwrite_a=True, check_finite=False, driver="evd")
    top = max(float(values[-1]), 0.0)
    if check and values[0] < -1e-10 * max(top, -float(values[0])):
        raise BadInput("K", f"a matrix with eigenvalue {values[0]:.3g}", "a positive semidefinite matrix")
    first = int(np.searchsorted(values, P * EPS * top, side="right"))
    return values[first:][::-1].copy(), np.ascontiguousarray(vectors[:, first:][:, ::-1])
