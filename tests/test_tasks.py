"""Data sets: validation, spectra, files, and the tasks that draw them."""

from __future__ import annotations

import builtins
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory import dataset, tasks
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, CorruptFile, UnknownName


def draw(P: int, D: int, seed: int = 0, rank: int | None = None) -> Dataset:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(P, D))
    if rank is not None:
        X = rng.normal(size=(P, rank)) @ rng.normal(size=(rank, D))
    return Dataset(X, rng.normal(size=P), rng.normal(size=(3, D)), rng.normal(size=3))


# --------------------------------------------------------------------------------------------- spectra


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 10**6), st.floats(0.1, 10))
def test_spectrum(P: int, D: int, rank: int, seed: int, weight_variance: float) -> None:
    data = draw(P, D, seed, rank)
    s, K = data.spectrum(weight_variance), data.kernel(weight_variance)
    r, U = s.rank, s.basis
    assert r == min(P, D, rank) and s.samples == P
    np.testing.assert_allclose(K, weight_variance / D * data.X @ data.X.T, rtol=1e-13, atol=1e-13)
    assert s.eigenvalues.shape == s.target_modes.shape == (P,) and U.shape == (P, r)
    assert (
        np.all(np.diff(s.eigenvalues) <= 0)
        and np.all(s.eigenvalues[:r] > 0)
        and np.all(s.eigenvalues[r:] == 0)
    )
    np.testing.assert_allclose(U.T @ U, np.eye(r), atol=1e-13)
    np.testing.assert_allclose((U * s.eigenvalues[:r]) @ U.T, K, atol=1e-12 * max(1, np.abs(K).max()))
    # The legal rotation inside the null space: y is recovered, and so is its norm.
    np.testing.assert_allclose(s.from_modes(s.target_modes), data.y, atol=1e-12)
    assert np.linalg.norm(s.target_modes) == pytest.approx(np.linalg.norm(data.y))
    assert np.all(s.target_modes[r + 1 :] == 0)
    # Any function of K applied to y, and its continuation to test inputs.
    solved = np.linalg.solve(K + np.eye(P), data.y)
    modes = s.target_modes / (s.eigenvalues + 1)
    np.testing.assert_allclose(s.from_modes(modes), solved, atol=1e-11)
    K_test = weight_variance / D * data.X_test @ data.X.T
    np.testing.assert_allclose(data.test_kernel(weight_variance), K_test, atol=1e-12)
    np.testing.assert_allclose(
        s.test_from_modes(modes), K_test @ solved, atol=1e-10 * max(1, np.abs(K_test).max())
    )
    np.testing.assert_allclose(s.test_basis, K_test @ U, atol=1e-11)
    many = s.from_modes(np.stack([modes, 2 * modes]))
    np.testing.assert_allclose(many[1], 2 * many[0])


@pytest.mark.parametrize(("P", "D"), [(5, 8), (8, 5), (6, 6)])
def test_kernel_and_inputs_give_one_spectrum(P: int, D: int) -> None:
    data = draw(P, D)
    known = Dataset.from_kernel(data.kernel(1.0), data.y, data.test_kernel(1.0), data.y_test)
    assert known.X is None and known.input_dim is None and known.test_samples == 3
    a, b = data.spectrum(1.7), known.spectrum(1.7)
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, atol=1e-12)
    np.testing.assert_allclose(a.target_modes**2, b.target_modes**2, atol=1e-10)  # up to the sign of a mode
    np.testing.assert_allclose(known.kernel(2.0), 2 * data.kernel(1.0))


def test_a_target_in_the_range_has_no_null_part() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 7))
    spectrum = Dataset(X, X @ rng.normal(size=7)).spectrum(1.0)
    assert np.all(spectrum.target_modes[7:] == 0) and np.all(spectrum.null_direction == 0)


def test_small_eigenvalues_of_tall_data_keep_an_orthonormal_basis() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)) * [1, 1e-3, 1e-6, 1e-7]
    spectrum = Dataset(X, np.ones(50)).spectrum(1.0)
    assert spectrum.rank == 4
    np.testing.assert_allclose(spectrum.basis.T @ spectrum.basis, np.eye(4), atol=1e-14)


def test_the_spectrum_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw(4, 6)
    first = data.spectrum(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(dataset.scipy.linalg, "eigh", None)
        second = data.spectrum(3.0)
    assert second.basis is first.basis
    np.testing.assert_allclose(second.eigenvalues, 3 * first.eigenvalues)
    with pytest.raises(BadInput, match=r"^X_test"):
        Dataset(np.eye(2), [1, 2]).spectrum(1.0).test_from_modes([1.0, 1.0])


# ------------------------------------------------------------------------------------------ validation


def test_arrays_are_read_only_copies() -> None:
    X = np.asfortranarray(np.arange(6, dtype=np.int32).reshape(3, 2))
    data = Dataset(X, [True, False, True])
    X[0, 0] = 99
    assert data.X[0, 0] == 0 and data.X.dtype == data.y.dtype == np.float64 and data.X.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        data.X[0, 0] = 1
    with pytest.raises(AttributeError):
        data.y = np.ones(3)  # type: ignore[misc]
    assert "samples=3" in repr(data) and data.samples == 3 and data.input_dim == 2 and data.test_samples == 0


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("X", (np.zeros((0, 3)), [])), ("X", (np.zeros((3, 0)), np.ones(3))), ("X", (np.ones(3), np.ones(3))),
        ("X", ([[1, math.nan]], [1])), ("X", ([[1, math.inf]], [1])), ("X", ([["a"]], [1])),
        ("X", (None, [1])),
        ("X", (np.array([[None]]), [1])), ("X", ([[1j]], [1])), ("X", ([[1, 2], [3]], [1, 2])),
        ("y", (np.eye(2), [1])), ("y", (np.eye(2), [[1], [2]])), ("y", (np.eye(2), [1, math.nan])),
        ("X_test", (np.eye(2), [1, 2], np.eye(3))), ("y_test", (np.eye(2), [1, 2], np.eye(2), [1])),
        ("y_test", (np.eye(2), [1, 2], None, [1])),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(argument: str, arguments: tuple) -> None:
    with pytest.raises(BadInput, match=f"^{argument}: got ") as caught:
        Dataset(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("K", "why"),
    [
        ([[1, 2], [1, 1]], "symmetric"), ([[1, 2], [2, 1]], "semidefinite"), ([[-1.0]], "semidefinite"),
        (np.ones((2, 3)), "square"), (np.zeros((0, 0)), "square"), ([[math.nan]], "finite"),
    ],
)  # fmt: skip
def test_kernels_that_are_none(K: object, why: str) -> None:
    with pytest.raises(BadInput, match=f"^K: .*{why}"):
        Dataset.from_kernel(K, np.ones(len(K)))


def test_bad_kernel_companions() -> None:
    with pytest.raises(BadInput, match=r"^K_test"):
        Dataset.from_kernel(np.eye(2), [1, 2], np.ones((4, 3)))
    with pytest.raises(BadInput, match=r"^y"):
        Dataset.from_kernel(np.eye(2), [1, 2, 3])
    assert Dataset.from_kernel(np.ones((3, 3)), [1, 2, 3]).spectrum(1.0).rank == 1  # semidefinite is fine


# ----------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["inputs", "bare", "kernel"])
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    data = draw(4, 3)
    if kind == "bare":
        data = Dataset(data.X, data.y, name="mine")
    if kind == "kernel":
        data = Dataset.from_kernel(data.kernel(1.0), data.y, data.test_kernel(1.0), name="mine")
    path = data.save(tmp_path / "data.npz")
    again = Dataset.load(path)
    assert again.name == data.name and again.test_samples == data.test_samples
    for a, b in zip(
        (again.kernel(1), again.y, again.y_test), (data.kernel(1), data.y, data.y_test), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert tasks.load(path).samples == 4 and tasks.load(str(path)).samples == 4
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw(4, 3).save(tmp_path / "data.npz")
    before = path.read_bytes()

    def interrupted(file: object, **arrays: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(5, 3).save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(BadInput, match=r"^path: got .*existing"):
        Dataset.load(path)
    path.write_bytes(b"not a zip archive")
    with pytest.raises(CorruptFile, match=r"data\.npz"):
        Dataset.load(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptFile):
        Dataset.load(path)
    with path.open("wb") as file:  # a single array, whatever the name promises
        np.save(file, np.eye(2))
    with pytest.raises(CorruptFile):
        Dataset.load(path)
    np.savez(path, X=np.eye(2))
    with pytest.raises(BadInput, match=r"^y: got no array"):
        Dataset.load(path)
    np.savez(path, X=np.eye(200), y=np.ones(200))
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptFile):
            Dataset.load(path)
    damaged = bytearray(whole)
    damaged[5000:5100] = b"x" * 100
    path.write_bytes(damaged)
    with pytest.raises(CorruptFile):
        Dataset.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadInput, match=r"^path"):
        Dataset.load(path)


def test_an_array_that_would_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    path, X, y = tmp_path / "data.npz", np.eye(2), np.ones(2)
    extras: tuple[dict[str, np.ndarray], ...] = (
        {"X": X, "y": y, "Xtest": X},
        {"x": X, "y": y},
        {"X": X, "y": y, "K": X},
        {"K": X, "y": y, "X_test": X},
    )
    for arrays, name in zip(extras, ("Xtest", "x", "K", "X_test")):
        np.savez(path, **arrays)
        with pytest.raises(BadInput, match=rf"^arrays: got {name} in data\.npz; expected X, y"):
            Dataset.load(path)


class Bomb:
    """Unpickling this raises a flag."""

    exploded = False

    def __reduce__(self) -> tuple:
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize("key", ["X", "y", "y_test"])
def test_object_arrays_are_never_unpickled(key: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    arrays: dict[str, np.ndarray] = {
        "X": np.eye(2),
        "y": np.ones(2),
        "X_test": np.eye(2),
        "y_test": np.ones(2),
    }
    arrays[key] = np.array([Bomb(), None], dtype=object)
    np.savez(path, **arrays)
    with pytest.raises(BadInput, match=f"^{key}: got an array of objects"):
        Dataset.load(path)
    assert not Bomb.exploded


# ----------------------------------------------------------------------------------------------- tasks


def test_ising() -> None:
    data = tasks.ising(40, 12, seed=3, label_scale=5.0, test_samples=7)
    assert set(np.unique(data.X)) == {-1, 1} and set(np.abs(data.y)) == {5} and data.test_samples == 7
    again = tasks.ising(40, 12, seed=3, label_scale=5.0, test_samples=7)
    np.testing.assert_array_equal(data.X_test, again.X_test)
    assert not np.array_equal(data.X, tasks.ising(40, 12, seed=4).X)
    linear = tasks.ising(40, 12, seed=3, teacher="linear", test_samples=7)
    u = np.linalg.lstsq(linear.X, linear.y, rcond=None)[0]
    assert np.linalg.norm(u) == pytest.approx(1)
    np.testing.assert_allclose(linear.X_test @ u, linear.y_test, atol=1e-12)
    np.testing.assert_array_equal(np.sign(linear.y), data.y / 5)
    np.testing.assert_array_equal(np.sign(linear.y_test), data.y_test / 5)
    assert set(tasks.ising(teacher="random").y) == {-1, 1}


def test_parity() -> None:
    data = tasks.parity(50, 6, order=3, seed=1000, test_samples="cube")
    want = np.random.default_rng(1000).choice([-1.0, 1.0], size=(50, 6))
    np.testing.assert_array_equal(data.X, want)
    np.testing.assert_array_equal(data.y, want[:, 0] * want[:, 1] * want[:, 2])
    assert len(np.unique(data.X_test, axis=0)) == data.test_samples == 64
    np.testing.assert_allclose(data.X_test.T @ data.X_test, 64 * np.eye(6))
    np.testing.assert_array_equal(data.y_test, data.X_test[:, :3].prod(axis=1))
    noisy = tasks.parity(50, 6, order=3, seed=1000, label_noise=0.1, test_samples=9)
    assert 0.05 < np.std(noisy.y - data.y) < 0.15 and set(np.abs(noisy.y_test)) == {1}
    with pytest.raises(BadInput, match=r"^order: got 7"):
        tasks.parity(5, 6, 7)
    with pytest.raises(BadInput, match=r"^test_samples: got 'cube'"):
        tasks.parity(5, 21, test_samples="cube")


def test_a_full_cube_to_train_on() -> None:
    data = tasks.parity("cube", 5, order=2, seed=7, test_samples="cube")
    np.testing.assert_array_equal(data.X, data.X_test)
    assert len(np.unique(data.X, axis=0)) == data.samples == 32
    np.testing.assert_array_equal(data.y, data.X[:, 0] * data.X[:, 1])
    np.testing.assert_array_equal(tasks.ising("cube", 5).X, data.X)
    assert tasks.ising(4, 5, test_samples="cube").test_samples == 32
    with pytest.raises(UnknownName, match="did you mean 'cube'"):
        tasks.parity("cubes", 5)
    with pytest.raises(BadInput, match=r"^samples: got 'cube'"):
        tasks.parity("cube", 21)


def test_single_index_along_an_axis() -> None:
    data = tasks.single_index(60, 4, {2: 1.0}, seed=1, direction="axis", test_samples=9)
    np.testing.assert_allclose(data.y, (data.X[:, 0] ** 2 - 1) / math.sqrt(2), atol=1e-13)
    np.testing.assert_allclose(data.y_test, (data.X_test[:, 0] ** 2 - 1) / math.sqrt(2), atol=1e-13)
    np.testing.assert_array_equal(tasks.single_index(9, 5, {"2": 1.0}).y, tasks.single_index(9, 5, {2: 1.0}).y)
    with pytest.raises(UnknownName, match="direction"):
        tasks.single_index(9, 5, direction="axes")
    for terms in ({(1, 1): 1.0}, {-1: 1.0}, {"x": 1.0}, {1: float("nan")}, {1: "big"}):
        with pytest.raises(BadInput, match=r"^hermite: got"):
            tasks.single_index(9, 5, terms)


def test_multi_index_is_the_product_of_its_directions() -> None:
    axes = tasks.multi_index(50, 5, {(2, 1): 0.5, (0, 3): -2.0}, seed=1, direction="axis", test_samples=7)
    for X, y in ((axes.X, axes.y), (axes.X_test, axes.y_test)):
        a, b = X[:, 0], X[:, 1]
        want = 0.5 * (a**2 - 1) / math.sqrt(2) * b - 2.0 * (b**3 - 3 * b) / math.sqrt(6)
        np.testing.assert_allclose(y, want, atol=1e-12)
    data = tasks.multi_index(20000, 5, seed=2)  # u.x v.x: E[y x x^T] = (u v^T + v u^T)/1, whose square is u u^T + v v^T
    moment = np.einsum("p,pi,pj->ij", data.y, data.X, data.X) / 20000
    values = np.linalg.eigvalsh(moment)
    np.testing.assert_allclose(values, [-1, 0, 0, 0, 1], atol=0.1)
    np.testing.assert_array_equal(tasks.multi_index(9, 5, {"1, 1": 1.0}).y, tasks.multi_index(9, 5).y)
    one = tasks.multi_index(9, 5, {(3,): 0.5}, seed=4, label_noise=0.1)
    np.testing.assert_array_equal(one.y, tasks.single_index(9, 5, {3: 0.5}, seed=4, label_noise=0.1).y)
    for terms, D in (({(1, 1): 1.0, (1,): 1.0}, 5), ({(1, 1): 1.0}, 1), ({}, 5)):
        with pytest.raises(BadInput, match=r"^hermite: got"):
            tasks.multi_index(9, D, terms)


def test_single_index() -> None:
    data = tasks.single_index(4000, 5, {1: 1.0, 3: -0.3}, seed=2, test_samples=11)
    direction = (
        data.X.T @ data.y / 4000
    )  # E[x he_1(u.x)] = u, and he_3 is orthogonal to every linear function
    direction /= np.linalg.norm(direction)
    t = data.X @ direction
    he3 = (t**3 - 3 * t) / math.sqrt(6)
    assert np.mean(t * data.y) == pytest.approx(1, abs=0.1) and np.mean(he3 * data.y) == pytest.approx(
        -0.3, abs=0.1
    )
    assert np.mean(data.y**2) == pytest.approx(1.09, abs=0.15) and data.test_samples == 11
    np.testing.assert_array_equal(tasks.single_index(9, 5).y, tasks.single_index(9, 5, {1: 1.0}).y)
    assert tasks.single_index(9, 5, label_noise=0.5).y.std() > 0


def test_digits() -> None:
    data = tasks.digits((3, 8), samples=200, test_samples=100, seed=1)
    assert data.samples == 200 and data.test_samples == 100 and set(data.y) == set(data.y_test) == {-1, 1}
    np.testing.assert_allclose(data.X.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.X.std(axis=0), 1)
    assert data.input_dim < 64
    weights = np.linalg.lstsq(data.X, data.y, rcond=0.05)[0]
    assert np.mean(np.sign(data.X_test @ weights) == data.y_test) > 0.9  # labels belong to their images
    swapped = tasks.digits((8, 3), samples=200, test_samples=100, seed=1)
    np.testing.assert_array_equal(swapped.y, -data.y)
    whole = tasks.digits(test_samples=57)
    assert whole.samples == 300 and tasks.digits().samples == 357
    for classes in ((3,), (3, 3), (3, 11)):
        with pytest.raises(BadInput, match=r"^classes"):
            tasks.digits(classes)
    for sizes in (
        {"samples": 358},
        {"samples": 300, "test_samples": 58},
        {"test_samples": 357},
        {"samples": 0},
    ):
        with pytest.raises(BadInput, match=r"^samples"):
            tasks.digits(**sizes)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return genuine(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match="demo"):
        tasks.digits()


def test_load_by_name() -> None:
    assert tasks.load("ising", samples=7, input_dim=3).X.shape == (7, 3)
    assert tasks.load("single-index").name == tasks.load("single_index").name == "single-index"
    with pytest.raises(UnknownName, match=r"did you mean 'ising'\?"):
        tasks.load("isng")
    with pytest.raises(UnknownName, match=r"did you mean 'samples'\?"):
        tasks.load("ising", smples=3)
    with pytest.raises(UnknownName, match="direction"):
        tasks.load("ising", teacher="directoin")
    for option in ({"samples": 0}, {"samples": 2.0}, {"input_dim": -1}, {"seed": -1}, {"test_samples": -1}):
        with pytest.raises(BadInput, match=f"^{next(iter(option))}: got"):
            tasks.load("ising", **option)
    with pytest.raises(BadInput, match=r"^path"):
        tasks.load("nowhere.npz")


def test_options_beside_a_file(tmp_path: Path) -> None:
    path = draw(3, 2).save(tmp_path / "data.npz")
    with pytest.raises(BadInput, match=r"^data: .*seed"):
        tasks.load(path, seed=1)
