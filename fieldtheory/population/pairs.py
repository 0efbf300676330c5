r"""Pairs of sites in the population limit: the one-loop correction of collapsed mean-field theory on nodes.

Sites are particles with energies s_1 and interactions s_2 (:mod:`.symbolic.cavityfluctuation`).  One loop of the
fluctuation of their density, ½ Tr [ln(1 + MpV) - MpV] with M = N - 1 and V being s_2 less its means, is every chain of
interactions that closes; its derivative is the energy of one site,

    E = S_1 + M ⟨s_2⟩ - ½ M [V p (1 + MVp)⁻¹ V](θ, θ),      p ∝ e^{-E};

the law of a pair is p p' less p V (1 + MpV)⁻¹ p'.  For one parity on the hypercube p does not change under sign flips
of the weights, and V(εw, ε'w') depends on εε' alone.  Nodes in one orthant stand for all their flips: a flip turns J_T
into χ_T(ε) J_T, so that overlaps Σ_T J_T J'_T χ_T(ε)/(s + κ_T) are a Walsh transform, and another one,
V_T = E_ε[χ_T(ε) V(ε)], takes the matrix over nodes and flips apart into one over nodes for each T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
import sympy as sp

from fieldtheory.errors import NotConverged, RuleError
from fieldtheory.population.eigenvalues import CLASS, ClassNodes, Equations, compiled, given
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on

Array = np.ndarray

TEMPERS = (0.0, 0.7, 1.0, 1.3)
"""Nodes for pairs are drawn from the law of one site with its energy times each of these."""
MEMORY, ROUNDS, TOLERANCE = 8, 100, 1e-8
"""Earlier iterates that a new one is combined of, how many at most, and how far the last one still moves."""
PATIENCE = 6
"""Iterations in a row after which chains of pairs that do not sum are taken for an instability."""


class Pairing:
    """Energy s_2 and outputs o_0, o_1, o_2 of up to two sites, from clusters S_n and O_n in the parities.

    ``twins`` says how the fields of the second site are called, ``coefficient`` what the target is.
    """

    def __init__(self, energies: Sequence[sp.Expr], outputs: Sequence[sp.Expr], twins: Mapping[Entry, Entry],
                 N: sp.Expr, kept: Space, coefficient: sp.Expr) -> None:
        self.first, self.second, self.kept, self.coefficient = tuple(twins), tuple(twins.values()), kept, coefficient
        self.weights: dict[str, sp.Expr] = {}

        def at(expr: sp.Expr, sites: int) -> sp.Expr:
            """With N - n media, whose spectrum is given for N - 1."""
            return expr.xreplace({e: e * (N - sites) / (N - 1) for e in expr.atoms(Entry) if e.name == "kappa"})

        def clusters(exprs: Sequence[sp.Expr]) -> list[sp.Expr]:
            zero, one, two = (at(expr, n) for n, expr in enumerate(exprs))
            return [zero, one, two - one - one.xreplace(dict(twins)) + zero]

        pair = clusters(energies)[2]
        moving = sp.Add(*(term for term in sp.Add.make_args(pair) if self._of(term, (*self.first, *self.second))))
        self.functions = {"s_2": _function(self._lowered(moving))}  # a constant moves no law
        self.functions |= {f"o_{n}": _function(self._lowered(expr)) for n, expr in enumerate(clusters(outputs))}
        self.kernel = compiled(self.weights, "pairs")

    @staticmethod
    def _of(expr: sp.Basic, fields: Sequence[Entry]) -> bool:
        return any(depends_on(expr, f) for f in fields)

    def _lowered(self, expr: sp.Expr) -> sp.Expr:
        """In J, J' at the target and sums over the modes: A of one site, A' of the other, C of both."""
        table: dict[sp.Basic, sp.Basic] = {}
        for total in sorted(expr.atoms(SpaceSum), key=sp.default_sort_key):
            if total.space == self.kept:
                table[total] = self._at_target(total.body)
            elif total.has(InputAverage):
                table[total] = self._named(total.body)
        found = self._at_target(expr.xreplace(table))
        if found.has(Entry, SpaceSum):
            raise RuleError(f"{found} is left of pairs of sites")
        return found

    def _at_target(self, expr: sp.Expr) -> sp.Expr:
        table: dict[sp.Basic, sp.Basic] = {
            node: sp.Symbol("J'" if self._of(node, self.second) else "J", real=True)
            for node in expr.atoms(InputAverage)}
        table |= {e: sp.Symbol("kappa_S", nonnegative=True) if e.name == "kappa" else self.coefficient
                  for e in expr.atoms(Entry) if e.spaces == (self.kept,)}
        return expr.xreplace(table)

    def _named(self, body: sp.Expr) -> sp.Symbol:
        """A sum over the modes of a weight times two overlaps."""
        nodes = sorted(body.atoms(InputAverage), key=sp.default_sort_key)
        dummies = {node: sp.Dummy(real=True) for node in nodes}
        square = sp.Mul(*dummies.values())**(2 // len(nodes))
        weight = sp.factor(sp.cancel(body.xreplace(dummies) / square))
        if len(nodes) > 2 or weight.has(*dummies.values()):
            raise RuleError(f"{body} is no multiple of two overlaps")
        spectrum = Entry("kappa", "spectrum", (CLASS,))
        weight = weight.xreplace({e: spectrum for e in weight.atoms(Entry) if e.name == "kappa"})
        name = next((name for name, known in self.weights.items() if known == weight), f"w_{len(self.weights)}")
        self.weights[name] = weight
        kind = "C" if len(nodes) == 2 else "A'" if self._of(nodes[0], self.second) else "A"
        return sp.Symbol(f"{kind}:{name}", real=True)


@dataclass(frozen=True)
class _Function:
    """An expression and the names that it needs."""

    names: tuple[str, ...]
    call: Any

    def __call__(self, known: Mapping[str, Any]) -> Array:
        return np.asarray(self.call(*(known[name] for name in self.names)))


def _function(expr: sp.Expr) -> _Function:
    symbols = sorted(expr.free_symbols, key=lambda symbol: symbol.name)  # type: ignore[attr-defined]
    dummies = [sp.Dummy() for _ in symbols]
    return _Function(tuple(symbol.name for symbol in symbols),  # type: ignore[attr-defined]
                     sp.lambdify(dummies, expr.xreplace(dict(zip(symbols, dummies, strict=True))), "numpy", cse=True))


@dataclass(frozen=True)
class PairSolution:
    """The output, the eigenvalues, and how far the law still moved."""

    output: float
    kappa: Array
    residual: float


class PairLaw:
    """The law of one site with pairs, on some nodes and all their flips.

    ``J`` are the overlaps of the nodes with all parities, ``labels`` the classes of these.
    """

    def __init__(self, pairing: Pairing, equations: Equations, nodes: ClassNodes, J: Array, labels: Array) -> None:
        self.pairing, self.equations, self.nodes, self.labels = pairing, equations, nodes, labels
        self.others = equations.values["N"] - 1
        self.count, self.modes = J.shape
        self.rows, self.columns = np.triu_indices(self.count)
        signs = scipy.linalg.hadamard(self.modes).astype(float)
        self.signs, self.seen = signs, np.abs(J).max(axis=0) > 1e-13 * np.abs(J).max()
        self.products = (J[self.rows][:, self.seen] * J[self.columns][:, self.seen]).T
        (target,) = np.flatnonzero(labels == equations.target)
        self.target = signs[:, target]
        self.log_weights = np.log(nodes.weights)

    def solve(self, kappa: Array) -> PairSolution:
        """From the eigenvalues of the law without pairs.

        Raises
        ------
        NotConverged
            If chains of pairs do not sum, with the least eigenvalue of 1 + MpV; or if the law does not settle.
        """
        seen = kappa > 0
        x = np.r_[self.equations.tilted(self.nodes, kappa)[0]["tilt"], np.log(kappa[seen])]
        history: list[tuple[Array, Array]] = []
        unstable, residual = 0, np.inf
        for _ in range(ROUNDS):
            kappa = np.zeros(len(seen))
            kappa[seen] = np.exp(x[self.count:])
            p = self._law(x[:self.count])
            matrices = self._matrices("s_2", kappa)
            energy, least = self._energy(p, kappa, matrices)
            unstable = unstable + 1 if least <= 0 else 0
            if unstable == PATIENCE:
                raise NotConverged(
                    "the law of independent sites is unstable: pairs of sites attract each other so strongly that "
                    f"chains of them do not sum (least eigenvalue of 1 + MpV: {least:.3g}); take resolvent=\"mean\", "
                    "more noise, or loops=0", residual)
            made = self._made(p, kappa)[seen]
            move = np.r_[energy - x[:self.count], np.log(made) - x[self.count:]]
            move[:self.count] -= p @ move[:self.count]
            residual = float(np.abs(self._law(energy) - p).sum()) + float(np.abs(move[self.count:]).max(initial=0.0))
            if residual < TOLERANCE and not unstable:
                return PairSolution(self._output(p, kappa, matrices), kappa, residual)
            history = [*history, (x, move)][-MEMORY:]
            x = _combined(history, np.r_[np.sqrt(p), np.full(len(made), 0.1)])
        raise NotConverged("the law of one site with pairs does not settle", residual)

    def _law(self, energy: Array) -> Array:
        return np.asarray(scipy.special.softmax(self.log_weights - energy))

    def _made(self, p: Array, kappa: Array) -> Array:
        """The medium that the law makes."""
        at, _ = self.equations.tilted(self.nodes, kappa)
        share = at["share"] if self.equations.medium_kernel is not None else 1.0
        return self.equations.formed((p * share) @ self.nodes.powers)[0]

    def _values(self, kappa: Array) -> dict[str, Any]:
        """The arguments of pairs, one row for each flip and one column for each pair of nodes."""
        weights = self.pairing.kernel(**given(self.pairing.kernel, {**self.equations.values, "kappa": kappa}))
        at: dict[str, Any] = {**self.equations.values, "kappa_S": float(kappa[self.equations.target])}
        overlap = self.nodes.overlap
        at |= {"J": overlap[self.rows], "J'": np.outer(self.target, overlap[self.columns])}
        for name, weight in weights.items():
            one = self.nodes.powers @ weight
            at |= {f"A:{name}": one[self.rows], f"A':{name}": one[self.columns]}
            if any(f"C:{name}" in f.names for f in self.pairing.functions.values()):
                at[f"C:{name}"] = self.signs[:, self.seen] @ (weight[self.labels][self.seen, None] * self.products)
        return at

    def _matrices(self, name: str, kappa: Array) -> Array:
        """E_ε[χ_T(ε) f(w, εw')] for all T."""
        flat = self.signs @ self.pairing.functions[name](self._values(kappa)) / self.modes
        found = np.empty((self.modes, self.count, self.count))
        found[:, self.rows, self.columns] = flat
        found[:, self.columns, self.rows] = flat
        return found

    def _energy(self, p: Array, kappa: Array, V: Array) -> tuple[Array, float]:
        """The energy of one site; V is freed of its means; and the least eigenvalue, as far as it is not positive."""
        tilt = self.equations.tilted(self.nodes, kappa)[0]["tilt"]
        mean = V[0] @ p
        V[0] -= mean[:, None] + mean[None, :] - p @ mean
        root, chains, least = np.sqrt(p), np.zeros(self.count), np.inf
        for matrix in V:
            half = root[:, None] * matrix
            spread = np.eye(self.count) + self.others * half * root
            try:
                factor = scipy.linalg.cholesky(spread, lower=True)
                solved = scipy.linalg.solve_triangular(factor, half, lower=True)
                chains += (solved**2).sum(axis=0)
            except np.linalg.LinAlgError:  # on the way to the solution this may pass
                least = min(least, float(np.linalg.eigvalsh(spread)[0]))
                chains += np.einsum("ab,ab->b", half, np.linalg.solve(spread, half))
        return tilt + self.others * mean - self.others / 2 * chains, least

    def _output(self, p: Array, kappa: Array, V: Array) -> float:
        """O_0 + N ⟨o_1⟩ + ½N(N-1) ⟨o_2⟩."""
        N, functions = self.others + 1, self.pairing.functions
        known = self._values(kappa)
        diagonal = self.rows == self.columns
        one = {name: value[diagonal] if np.ndim(value) == 1 else value for name, value in known.items()}
        zero = float(functions["o_0"](one))
        o_2 = self._matrices("o_2", kappa)
        pairs, root = float(p @ o_2[0] @ p), np.sqrt(p)
        for matrix, other in zip(V, o_2, strict=True):
            kernel = root[:, None] * matrix * root
            chain = np.linalg.solve(np.eye(self.count) + self.others * kernel, kernel)
            pairs -= float(np.sum(root[:, None] * chain * root * other))
        return zero + N * (float(p @ functions["o_1"](one)) - zero) + N * (N - 1) / 2 * pairs


def chosen(weights: Array, tilt: Array, features: Array, order_by: Array, count: int,
           rng: np.random.Generator) -> tuple[Array, Array]:
    """Some nodes for pairs and their weights of the prior, so that averages of ``features`` (node, number) are kept.

    They are drawn evenly along ``order_by`` from laws of one site at several tempers.  Of all weights that give the
    law of one site the same averages on these nodes as on all, those are taken that differ least from how they were
    drawn (in relative entropy).

    Raises
    ------
    NotConverged
        If no positive weights of so few nodes have these averages.
    """
    law = np.log(np.maximum(weights, 1e-300))
    mixed = np.mean([scipy.special.softmax(law - temper * tilt) for temper in TEMPERS], axis=0)
    order = np.argsort(order_by)
    places = np.searchsorted(np.cumsum(mixed[order]), (rng.random() + np.arange(count)) / count)
    found, times = np.unique(order[np.minimum(places, len(order) - 1)], return_counts=True)
    goal = scipy.special.softmax(law - tilt) @ features
    drawn = law[found] - np.log(mixed[found]) + np.log(times)
    return found, np.exp(scipy.special.log_softmax(drawn + _kept(drawn - tilt[found], features[found], goal)))


def _kept(log_weights: Array, features: Array, goal: Array) -> Array:
    """What is added to logarithms of weights so that averages of features are ``goal``: λ·features, by Newton."""
    size = np.abs(features).max(axis=0)
    excess = (features[:, size > 0] - goal[size > 0]) / size[size > 0]
    multipliers = np.zeros(excess.shape[1])
    for _ in range(60):
        q = scipy.special.softmax(log_weights + excess @ multipliers)
        mean = q @ excess
        if np.abs(mean / np.sqrt(q @ excess**2 + 1e-300)).max(initial=0.0) < 1e-9:
            return np.asarray(excess @ multipliers)
        covariance = (excess.T * q) @ excess - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(np.diagonal(covariance), 1e-60))
        step = -np.linalg.pinv(covariance / np.outer(scale, scale), rcond=1e-10) @ (mean / scale) / scale
        before, length = scipy.special.logsumexp(log_weights + excess @ multipliers), 1.0
        while length > 1e-4 and scipy.special.logsumexp(log_weights + excess @ (multipliers + length * step)) > before:
            length /= 2
        multipliers = multipliers + length * step
    raise NotConverged("few nodes cannot stand for the law of one site (give more pairs)", float(np.abs(mean).max()))


def _combined(history: Sequence[tuple[Array, Array]], metric: Array) -> Array:
    """The next iterate: the combination of earlier ones whose moves cancel best (Anderson 1965), moved."""
    x, move = history[-1]
    if len(history) < 2:
        return x + move / 2
    moves = np.stack([(move - other) * metric for _, other in history[:-1]], axis=1)
    best, *_ = np.linalg.lstsq(moves, move * metric, rcond=1e-10)
    for coefficient, (earlier, other) in zip(best, history[:-1], strict=True):
        x = x - coefficient * (history[-1][0] - earlier)
        move = move - coefficient * (history[-1][1] - other)
    return x + move


__all__ = ["PairLaw", "PairSolution", "Pairing", "chosen"]
