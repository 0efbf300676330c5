"""Tasks: data sets drawn by a seed, from a rule or from images that come with scikit-learn."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, UnknownName

Array = NDArray[np.float64]

Direction = Literal["random", "axis"]
MOST_CUBE = 20
"""Inputs of which the full cube is still enumerated."""


def _size(argument: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadInput(argument, repr(value), f"an integer >= {least}")
    return int(value)


def _generator(seed: Any) -> np.random.Generator:
    return np.random.default_rng(_size("seed", seed, 0))


def _signs(rng: np.random.Generator, argument: str, count: Any, input_dim: int, least: int = 1) -> Array | None:
    """So many inputs from {-1, +1}^D with replacement, or with "cube" each of them once; None for no inputs."""
    if not isinstance(count, str):
        P = _size(argument, count, least)
        return rng.choice([-1.0, 1.0], size=(P, input_dim)) if P else None
    if count != "cube":
        raise UnknownName(argument, count, ("cube",))
    if input_dim > MOST_CUBE:
        raise BadInput(argument, "'cube'", f"a number of inputs, since input_dim = {input_dim} > {MOST_CUBE}")
    return np.where((np.arange(2**input_dim)[:, None] >> np.arange(input_dim)) & 1, -1.0, 1.0)


def ising(
    samples: int | Literal["cube"] = 60,
    input_dim: int = 80,
    *,
    seed: int = 0,
    teacher: Literal["direction", "linear", "random"] = "direction",
    label_scale: float = 1.0,
    test_samples: int | Literal["cube"] = 0,
) -> Dataset:
    """Inputs uniform on {-1, +1}^D; labels `label_scale` times the teacher's.

    Teachers, with u a random unit direction: "direction" sign(u . x), "linear" u . x, "random" fair signs.
    `"cube"` in place of a number is all 2^D inputs (D <= 20), each once.
    """
    D = _size("input_dim", input_dim)
    teachers: dict[str, Callable[[Array], Array]] = {
        "direction": lambda X: np.where(X @ u >= 0, 1.0, -1.0),
        "linear": lambda X: X @ u,
        "random": lambda X: rng.choice([-1.0, 1.0], size=len(X)),
    }
    if teacher not in teachers:
        raise UnknownName("teacher", teacher, teachers)
    rng = _generator(seed)
    X = _signs(rng, "samples", samples, D)
    assert X is not None
    u = rng.standard_normal(D)
    u /= np.linalg.norm(u)
    y = label_scale * teachers[teacher](X)
    X_test = _signs(rng, "test_samples", test_samples, D, 0)
    y_test = None if X_test is None else label_scale * teachers[teacher](X_test)
    return Dataset(X, y, X_test, y_test, name="ising")


def parity(
    samples: int | Literal["cube"] = 200,
    input_dim: int = 10,
    order: int = 2,
    *,
    seed: int = 0,
    label_noise: float = 0.0,
    test_samples: int | Literal["cube"] = 0,
) -> Dataset:
    """Sparse parity y = x_1 ... x_order on inputs drawn from {-1, +1}^D with replacement, plus noise.

    `samples="cube"` trains on all 2^D inputs (D <= 20), each once: the population with P = 2^D. `test_samples="cube"`
    tests on all of them. Inputs that are drawn are the generator's first draw.
    """
    D, k = _size("input_dim", input_dim), _size("order", order)
    if k > D:
        raise BadInput("order", k, f"at most input_dim = {D}")
    rng = _generator(seed)
    X = _signs(rng, "samples", samples, D)
    assert X is not None
    y = X[:, :k].prod(axis=1) + (label_noise * rng.standard_normal(len(X)) if label_noise else 0.0)
    X_test = _signs(rng, "test_samples", test_samples, D, 0)
    y_test = None if X_test is None else X_test[:, :k].prod(axis=1)
    return Dataset(X, y, X_test, y_test, name="parity", orders=(k,))


def single_index(
    samples: int = 200,
    input_dim: int = 16,
    hermite: Mapping[int, float] | None = None,
    *,
    seed: int = 0,
    direction: Direction = "random",
    label_noise: float = 0.0,
    test_samples: int = 0,
) -> Dataset:
    """y = sum_n c_n he_n(u . x) on Gaussian inputs: he_n orthonormal, u a random unit direction or the first axis.

    `hermite` is {n: c_n}. The default is {1: 1.0}: a linear teacher.
    """
    weights = {1: 1.0} if hermite is None else dict(hermite)
    terms = {_orders(key): c for key, c in weights.items()}
    for orders in terms:
        if len(orders) != 1:
            raise BadInput("hermite", orders, "one order for each coefficient; multi_index takes several")
    return _gaussian("single-index", samples, input_dim, terms, seed, direction, label_noise, test_samples)


def multi_index(
    samples: int = 200,
    input_dim: int = 16,
    hermite: Mapping[tuple[int, ...], float] | None = None,
    *,
    seed: int = 0,
    direction: Direction = "random",
    label_noise: float = 0.0,
    test_samples: int = 0,
) -> Dataset:
    """y = sum_n c_n he_n1(u_1 . x) he_n2(u_2 . x) ... on Gaussian inputs, he_n orthonormal, u_1, u_2, ... orthonormal.

    `hermite` is {(n_1, n_2, ...): c}, with as many orders as there are directions. The default is {(1, 1): 1.0}.
    Directions are random, or with `direction="axis"` the first axes. In a file the orders are text: {"1,1" = 1.0}.
    """
    weights = {(1, 1): 1.0} if hermite is None else dict(hermite)
    terms = {_orders(key): c for key, c in weights.items()}
    if len({len(orders) for orders in terms}) != 1:
        raise BadInput("hermite", list(weights), "as many orders in each term: one for each direction")
    return _gaussian("multi-index", samples, input_dim, terms, seed, direction, label_noise, test_samples)


def _orders(key: Any) -> tuple[int, ...]:
    """The orders of a term: a number, several, or either as the text that a key in a file is."""
    parts = key if isinstance(key, tuple) else key.split(",") if isinstance(key, str) else (key,)
    read = [int(part) if isinstance(part, str) and part.strip().isdecimal() else part for part in parts]
    return tuple(_size("hermite", part, 0) for part in read)


def _gaussian(
    name: str, samples: int, input_dim: int, terms: Mapping[tuple[int, ...], float], seed: int, direction: str,
    label_noise: float, test_samples: int,
) -> Dataset:  # fmt: skip
    P, D, P_test = (
        _size("samples", samples),
        _size("input_dim", input_dim),
        _size("test_samples", test_samples, 0),
    )
    for orders, c in terms.items():
        if isinstance(c, bool) or not isinstance(c, int | float | np.number) or not np.isfinite(c):
            raise BadInput("hermite", f"{c!r} for {orders}", "finite numbers as coefficients")
    k = max((len(orders) for orders in terms), default=1)
    if k > D:
        raise BadInput("hermite", f"{k} directions", f"at most input_dim = {D}")
    if direction not in ("random", "axis"):
        raise UnknownName("direction", direction, ("random", "axis"))
    rng = _generator(seed)
    X = rng.standard_normal((P, D))
    if direction == "random":
        Q, R = np.linalg.qr(rng.standard_normal((k, D)).T)
        U = Q * np.sign(np.diag(R))
    else:
        U = np.eye(D)[:, :k]

    def teach(X: Array) -> Array:
        projections, y = X @ U, np.zeros(len(X))
        for orders, c in terms.items():
            y += c * np.prod([_hermite(n, h) for n, h in zip(orders, projections.T)], axis=0)
        return y

    y = teach(X) + (label_noise * rng.standard_normal(P) if label_noise else 0.0)
    X_test = rng.standard_normal((P_test, D)) if P_test else None
    total = tuple(sorted({sum(orders) for orders, c in terms.items() if c}))
    return Dataset(X, y, X_test, None if X_test is None else teach(X_test), name=name, orders=total)


def _hermite(order: int, h: Array) -> Array:
    """he_n, normalised: E he_n(h)² = 1 for a standard normal h."""
    coefficients = np.zeros(order + 1)
    coefficients[order] = 1 / np.sqrt(float(np.prod(np.arange(1.0, order + 1))))
    return np.asarray(np.polynomial.hermite_e.hermeval(h, coefficients), dtype=np.float64)


def digits(
    classes: tuple[int, int] = (3, 8),
    samples: int | None = None,
    *,
    seed: int = 0,
    test_samples: int = 0,
) -> Dataset:
    """Two of scikit-learn's bundled handwritten digits, `classes[0]` as +1 and `classes[1]` as -1.

    Images are shuffled by `seed`; the first `samples` (None: all that are not tested on) train, the next
    `test_samples` test. Pixels constant over the training images are dropped, the others standardised with
    the training mean and standard deviation.

    Errors: BadInput for classes or sizes that do not exist, and when scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput(
            "digits", "no scikit-learn", "scikit-learn: pip install 'bayes-fieldtheory[demo]'"
        ) from None
    if len(classes) != 2 or classes[0] == classes[1] or not set(classes) <= set(range(10)):
        raise BadInput("classes", classes, "two different digits from 0 to 9")
    images, labels = load_digits(return_X_y=True)
    chosen = np.flatnonzero(np.isin(labels, classes))
    chosen = chosen[_generator(seed).permutation(len(chosen))]
    P_test = _size("test_samples", test_samples, 0)
    P = len(chosen) - P_test if samples is None else _size("samples", samples)
    if P < 1 or P + P_test > len(chosen):
        raise BadInput("samples", f"{max(P, 0)} with {P_test} test samples", f"at most {len(chosen)} in all")
    X, y = images[chosen], np.where(labels[chosen] == classes[0], 1.0, -1.0)
    X = X[:, np.ptp(X[:P], axis=0) > 0]
    if X.shape[1] == 0:
        raise BadInput("samples", P, "enough images for at least one pixel to vary")
    X = (X - X[:P].mean(axis=0)) / X[:P].std(axis=0)
    test = slice(P, P + P_test)
    return Dataset(X[:P], y[:P], X[test] if P_test else None, y[test] if P_test else None, name="digits")


_TASKS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "ising": ising,
    "multi-index": multi_index,
    "parity": parity,
    "single-index": single_index,
}
NAMES = tuple(_TASKS)
"""Tasks that `load` knows by name."""


def load(name_or_path: str | os.PathLike[str], **options: Any) -> Dataset:
    """A task by name ("ising", "digits", "parity", "single-index", "multi-index"; `options` are its arguments), or a
    user's .npz.

    Errors: UnknownName, with the nearest name, for anything that is neither; UnknownName for an option the
        task does not have; BadInput for options beside a file.
    """
    text = os.fspath(name_or_path)
    task = _TASKS.get(text.replace("_", "-"))
    if task is None:
        if not (text.endswith(".npz") or Path(text).is_file()):
            raise UnknownName("data", text, [*_TASKS, "a path to an .npz file"])
        if options:
            raise BadInput("data", f"{text} with options {', '.join(options)}", "no options beside a file")
        return Dataset.load(text)
    for option in options:
        if option not in inspect.signature(task).parameters:
            raise UnknownName(f"option of {text}", option, inspect.signature(task).parameters)
    return task(**options)
