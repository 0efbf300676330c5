"""A plain verdict on chains: converged, or not converged, because of what, and what to do about it.

The same numbers as in `diagnostics`, read the way an experienced user would: chains that disagree may be short, may
still be on their way from the start, or may sit in different modes, and the cure differs.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput
from fieldtheory.sampling import diagnostics
from fieldtheory.sampling.diagnostics import MAXIMUM_RHAT, MINIMUM_ESS

Array = NDArray[np.float64]

# A chain whose own quarters agree this well has settled, wherever it has.
_SETTLED = 1.1
# Two groups of chains are apart when the gap between them is this many times the spread within them.
_GAP = 3.0
# More than one diverging draw in a thousand; energies, acceptance rates and steps that are out of the ordinary.
_DIVERGING, _BFMI, _ACCEPTANCE, _STEPS = 1e-3, 0.3, (0.1, 0.99), 3.0
# A method without accept test takes steps that nearly all would pass one: only beyond this they are too small.
_UNTESTED = 0.999
# Rungs of a ladder that exchange positions less often than this are no ladder.
_EXCHANGE = 0.01
# Draws per effective sample from which on a better method is worth more than more draws.
_SLOW = 50.0

COLUMNS = ("mean", "mcse", "sd", "mcse_sd", "ess", "ess_tail", "rhat")
HEADER = ("observable", "entries", "mean", "MCSE", "sd", "MCSE sd", "bulk ESS", "tail ESS", "R-hat")


@dataclass(frozen=True)
class Cause:
    """One reason not to trust the samples yet, and what would remove it."""

    because: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.because}; do: {self.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found. True where the chains have converged.

    `causes` say why not, each with its remedy; `notes` what does not count against the samples, but is worth knowing.
    `table` is `sampling.summarise` of the samples: (statistic, ...) by observable; `chains` holds (chain,)
    `acceptance_rate`, `step_size` (its mean), `leapfrog` (gradients per draw), `bfmi`, `divergences`. Traces of
    these over the draws are in the samples, under `sample_stats`.
    """

    causes: tuple[Cause, ...]
    notes: tuple[str, ...]
    table: xr.Dataset = field(repr=False)
    chains: xr.Dataset = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the samples."""
        return not self.causes

    def __bool__(self) -> bool:
        return self.converged

    @property
    def verdict(self) -> str:
        """One line: converged, or not converged and why, cause by cause, with what to do."""
        if self.causes:
            return "not converged, because " + "; and ".join(map(str, self.causes))
        ess, rhat = (np.concatenate([np.ravel(x.sel(statistic=key)) for x in self.table.data_vars.values()])
                     for key in ("ess", "rhat"))
        return (f"converged: R-hat at most {np.nanmax(rhat):.3f}, at least {np.nanmin(ess):.0f} effective samples of "
                "every observable")

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """One row of cells per observable: what is worst over its entries."""
        for name in self.table.data_vars:
            columns = [np.ravel(self.table[name].sel(statistic=key).values) for key in COLUMNS]
            mean, mcse, sd, mcse_sd, ess, tail, rhat = columns
            shown = f"{mean[0]:.5g}" if len(mean) == 1 else f"{mean.min():.3g} .. {mean.max():.3g}"
            yield (str(name), str(len(mean)), shown, f"{mcse.max():.1g}", f"{sd.max():.3g}", f"{mcse_sd.max():.1g}",
                   f"{ess.min():.0f}", f"{tail.min():.0f}", f"{np.max(rhat):.3f}")

    def _chain_lines(self) -> Iterator[str]:
        for k in range(self.chains.sizes["chain"]):
            one = {name: float(self.chains[name].values[k]) for name in self.chains.data_vars}
            yield (f"chain {k}: acceptance {one['acceptance_rate']:.2f}, step {one['step_size']:.3g}, gradients a draw "
                   f"{one['leapfrog']:.3g}, BFMI {one['bfmi']:.2f}, diverging {one['divergences']:.0f}")

    def __str__(self) -> str:
        cells = [HEADER, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
        return "\n".join([self.verdict, *lines, *self._chain_lines(), *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        def row(tag: str, cells: tuple[str, ...]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        word, items = ("converged", "") if self else ("not converged", "".join(
            f"<li>{html.escape(cause.because)}. <i>{html.escape(cause.remedy)}</i></li>" for cause in self.causes))
        body = "".join(row("td", cells) for cells in self._rows())
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in (*self._chain_lines(), *self.notes))
        return f"<p><b>{word}</b></p><ul>{items}</ul><table>{row('th', HEADER)}{body}</table>{lines}"


def diagnose(
    samples: Any,
    *,
    minimum_ess: float = MINIMUM_ESS,
    maximum_rhat: float = MAXIMUM_RHAT,
    along: ArrayLike | None = None,
) -> Diagnosis:
    """Whether chains have converged; if not, because of what, and what to do.

    Judged are observables that ignore the order of the neurons and, for odd activations, their sign (`observables`):
        outputs at training and test inputs, their variance along `along` (P,), the discrepancy, the readout norm,
        overlaps. Not converged: R-hat (rank-normalised, split) above `maximum_rhat`, bulk or tail ESS below
        `minimum_ess`, chains that do not move or are not finite, more than one diverging draw in a thousand.
    Causes of a large R-hat: chains each of which has settled, at different values, are in different modes;
        chains that agree in their second halves were warmed up too briefly; others mix slowly.
    Validity: the statistics see only where the chains have been. A mode that no chain has visited leaves no trace:
        start chains apart (`initial`).
    Errors: BadInput for samples that are not laid out as `sample` returns them, or thresholds that are not positive.
    Source: Vehtari et al., Bayesian Analysis 16, 667 (2021); Betancourt, arXiv 1604.00695 (BFMI).
    """
    for name, value in {"minimum_ess": minimum_ess, "maximum_rhat": maximum_rhat}.items():
        if not value > 0:
            raise BadInput(name, value, "a number > 0")
    try:
        output = np.asarray(samples["posterior"]["output"].values, dtype=float)
        attributes = dict(samples["posterior"].attrs)
        statistics = {str(key): np.asarray(value.values) for key, value in samples["sample_stats"].data_vars.items()}
    except (KeyError, TypeError, AttributeError):
        expected = "samples with the groups posterior and sample_stats, as `sample` returns"
        raise BadInput("samples", type(samples).__name__, expected) from None
    if output.ndim != 3 or output.shape[1] < 4:
        raise BadInput("samples", f"outputs of shape {output.shape}", "(chain, draw >= 4, sample)")
    with np.errstate(invalid="ignore"):  # draws that are not finite are found, and said
        mean = output.mean(axis=(0, 1))
        if along is None and not 0 < np.linalg.norm(mean) < np.inf:  # any direction will do to say what is wrong
            along = np.ones_like(mean)
        table = diagnostics.summarise(samples, along=along)
        series = {name: values for name, (_, values) in diagnostics.observables(samples, along=along).items()}
        run = _Run(attributes, table, series, statistics, minimum_ess, maximum_rhat)
        return Diagnosis(tuple(run.causes()), tuple(run.notes()), table, run.chains)


class _Run:
    """Samples with their statistics, entry by entry, and the reasons found in them."""

    def __init__(self, attributes: dict[str, Any], table: xr.Dataset, series: dict[str, Array],
                 statistics: dict[str, Array], minimum_ess: float, maximum_rhat: float) -> None:
        self.attributes, self.statistics = attributes, statistics
        self.minimum_ess, self.maximum_rhat = minimum_ess, maximum_rhat
        self.series = {name: x.reshape(*x.shape[:2], -1) for name, x in series.items()}
        self.places = [(name, k) for name, x in self.series.items() for k in range(x.shape[2])]
        self.names = [f"{name}[{k}]" if table[name].ndim > 1 else name for name, k in self.places]
        self.shape = next(iter(self.series.values())).shape[:2]
        self.columns = {key: np.concatenate([np.ravel(table[name].sel(statistic=key).values) for name in series])
                        for key in COLUMNS}
        self.chains = self._per_chain()
        # What is the same for ever is no evidence of anything: f(0) of an odd activation, say.
        self.moving = np.flatnonzero(self._each(lambda x: np.ptp(x, axis=(0, 1))) > 0)

    def _each(self, compute: Callable[[Array], Any]) -> NDArray[Any]:
        """`compute` of each series (chain, draw, entry), joined along its last axis, the entries."""
        return np.concatenate([compute(x) for x in self.series.values()], axis=-1)

    def _per_chain(self) -> xr.Dataset:
        absent = np.full(self.shape, np.nan)
        stats = {name: self.statistics.get(name, absent).astype(float)
                 for name in ("acceptance_rate", "step_size", "n_steps", "energy", "diverging")}
        table = {"acceptance_rate": stats["acceptance_rate"].mean(axis=1), "step_size": stats["step_size"].mean(axis=1),
                 "leapfrog": stats["n_steps"].mean(axis=1), "bfmi": diagnostics.bfmi(stats["energy"]),
                 "divergences": stats["diverging"].sum(axis=1)}
        return xr.Dataset({name: ("chain", values) for name, values in table.items()})

    # ------------------------------------------------------------------------------------------------ reasons

    def causes(self) -> Iterator[Cause]:
        chains, draws = self.shape
        if (bad := np.flatnonzero(~self._each(lambda x: np.isfinite(x).all(axis=(0, 1))))).size:
            yield Cause(f"{self.names[bad[0]]} is not finite in some draws",
                        "a smaller step, or a method with an accept test (mala, hmc)")
            return
        if not self.moving.size:
            yield Cause("nothing varies over the draws", "more draws, or a larger step")
            return
        outputs = [k for k, (name, _) in enumerate(self.places) if name == "mean_output"]
        if not np.isin(outputs, self.moving).any():
            yield Cause("the outputs are the same in every draw: their likelihood is constant, and the draws are the "
                        "prior's", "inputs X, or an activation, that the outputs depend on")
        stuck = np.flatnonzero((self._each(lambda x: np.ptp(x, axis=1)) == 0).all(axis=1))
        if stuck.size:
            yield Cause(f"{_list('chain', stuck)} did not move", self._mobile("another start (initial=)"))
            return
        ess, tail, rhat = (self.columns[key][self.moving] for key in ("ess", "ess_tail", "rhat"))
        if chains == 1:
            yield Cause("one chain cannot show whether another start ends elsewhere", "at least chains=4")
        yield from self._exchanges()
        worst = diagnostics.shortfall(ess, rhat if chains > 1 else (), self.minimum_ess, self.maximum_rhat)
        if worst and (cause := self._unsuitable_step()):
            yield cause
        elif chains > 1 and (short := diagnostics.shortfall((), rhat, maximum_rhat=self.maximum_rhat)):
            yield self._disagreement(self.moving[short[1]])  # then the effective samples are few for the same reason
        else:
            for word, values in (("", ess), ("tail ", tail)):
                if short := diagnostics.shortfall(values, (), self.minimum_ess):
                    found, name = values[short[1]], self.names[self.moving[short[1]]]
                    yield Cause(f"there are {found:.0f} {word}effective samples of {name}, where "
                                f"{self.minimum_ess:g} are needed", self._longer(found))
                    break
        diverging = int(self.chains.divergences.sum())
        if diverging > _DIVERGING * chains * draws:
            step = float(np.nanmin(self.chains.step_size))
            yield Cause(f"{diverging} of {chains * draws} draws diverged",
                        f"a smaller step, such as step={step / 2:.2g}")

    def _exchanges(self) -> Iterator[Cause]:
        """The rungs of a ladder between which nothing, or next to nothing, passes."""
        for k in itertools.count():
            if (rates := self.statistics.get(f"exchange_{k}")) is None:
                return
            made = rates[np.isfinite(rates)]
            if made.size and made.mean() < _EXCHANGE:
                yield Cause(f"rungs {k} and {k + 1} of the ladder exchange {made.mean():.2g} of the times that it is "
                            "proposed", "more rungs (tempering=), or noise variances that lie closer")

    def _unsuitable_step(self) -> Cause | None:
        """A step that was given, and that all proposals or next to none survive."""
        if "step" not in self.attributes or not self._has("acceptance_rate"):
            return None
        rates, remedy = self.chains.acceptance_rate.values, "step=None, which adapts it in warm-up"
        given = f"the step of {self.attributes['step']:.3g} that was given is too"
        most = _ACCEPTANCE[1] if self.attributes.get("accept_test", 1) else _UNTESTED
        if np.nanmin(rates) > most:
            return Cause(f"{given} small (acceptance is {np.nanmin(rates):.4g}, and the chains hardly move)",
                         f"a larger step, or {remedy}")
        if np.nanmin(rates) < _ACCEPTANCE[0]:
            return Cause(f"{given} large (acceptance is {np.nanmin(rates):.2g})", f"a smaller step, or {remedy}")
        return None

    def _longer(self, ess: float) -> str:
        """How much longer a run must be, and whether another method would be better advice."""
        chains, draws = self.shape
        factor = math.ceil(1.2 * self.minimum_ess / max(float(ess), 1.0))
        remedy = f"{factor} times as many iterations (draws={factor * draws}, or thin={factor} times as large)"
        return self._mobile(remedy) if chains * draws > _SLOW * ess else remedy

    def _disagreement(self, worst: int) -> Cause:
        """Why the chains disagree about one entry: modes, too short a warm-up, or slow mixing."""
        name, k = self.places[worst]
        x = self.series[name][:, :, k]
        chains, draws = x.shape
        head = f"R-hat of {self.names[worst]} is {self.columns['rhat'][worst]:.3g}"
        half = draws // 2
        halves = x[:, : 2 * half].reshape(chains, 2, half)
        settled = half >= 4 and all(float(diagnostics.rhat(pair)) < _SETTLED for pair in halves)
        if settled:
            few, found = _outliers(x.mean(axis=1))
            if few.size:
                rest = np.setdiff1d(np.arange(chains), few)
                verb = "stays" if len(few) == 1 else "stay"
                where = (f"{_list('chain', few)} {verb} in another mode: "
                         f"{x[few].mean():.3g} against {x[rest].mean():.3g}")
            else:
                where = f"each chain stays near a value of its own, {found}"
            return Cause(f"{head} (the chains disagree: {where})",
                         f"{', '.join(['parallel tempering (tempering=)', *self._exact_draws()])}, or a much longer "
                         "run; do not average over modes whose weights are unknown")
        if half >= 8 and float(diagnostics.rhat(x[:, half:])) <= self.maximum_rhat:
            return Cause(f"{head} (the chains agree in their second halves only: they were still on their way)",
                         f"a longer warm-up (warmup={2 * draws} or more)")
        return Cause(f"{head} (the chains move, but too slowly for their length)",
                     self._longer(self.columns["ess"][worst]))

    def _mobile(self, otherwise: str) -> str:
        """What makes chains move faster, given how they moved."""
        accepted = float(np.nanmin(self.chains.acceptance_rate)) if self._has("acceptance_rate") else math.nan
        ways = []
        if accepted < _ACCEPTANCE[0]:
            ways.append(f"a smaller step (acceptance is {accepted:.2g})")
        elif accepted > _ACCEPTANCE[1] and self.attributes.get("accept_test"):
            given = "step" in self.attributes
            ways.append(f"{'a larger step' if given else 'a longer warm-up'} (acceptance is {accepted:.3g})")
        if self.attributes.get("method") != "hmc":
            ways.append("method='hmc'")
        ways += self._exact_draws()
        return f"{', '.join(ways)}; or {otherwise}" if ways else otherwise

    def _exact_draws(self) -> list[str]:
        """The advice to draw the readout exactly, unless it was."""
        drawn = "readout" in str(self.attributes.get("gibbs", ""))
        return [] if drawn else ["exact draws of the readout (gibbs=('readout',))"]

    def _has(self, name: str) -> bool:
        return bool(np.isfinite(self.chains[name].values).any())

    def notes(self) -> Iterator[str]:
        still = len(self.names) - len(self.moving)
        if still and self.moving.size:
            constant = np.setdiff1d(np.arange(len(self.names)), self.moving)
            yield f"{self.names[constant[0]]}{f' and {still - 1} more' if still > 1 else ''} did not vary at all"
        if not self.attributes.get("accept_test", 1):
            yield "the samples were drawn without accept test, and carry a bias that no statistic of the chains can see"
        if self._has("bfmi") and (low := float(np.nanmin(self.chains.bfmi))) < _BFMI:
            yield (f"BFMI is {low:.2f}: fresh momenta hardly change the energy, whose tails are visited seldom: "
                   f"{' or '.join(['more draws', *self._exact_draws()])} will help")
        if self._has("step_size"):
            steps = self.chains.step_size.values
            if np.nanmax(steps) > _STEPS * np.nanmin(steps):
                yield (f"chain {int(np.nanargmin(steps))} adapted a step of {np.nanmin(steps):.2g} and chain "
                       f"{int(np.nanargmax(steps))} one of {np.nanmax(steps):.2g}: a longer warm-up is advisable")


def _outliers(means: Array) -> tuple[NDArray[np.intp], str]:
    """The smaller of two groups that the chains' means fall into, empty where there are none; the means' range."""
    order = np.argsort(means)
    ordered = means[order]
    k = int(np.argmax(np.diff(ordered))) + 1
    spread = max(np.ptp(ordered[:k]), np.ptp(ordered[k:]))
    text = f"from {ordered[0]:.3g} to {ordered[-1]:.3g}"
    if len(means) > 2 and ordered[k] - ordered[k - 1] <= _GAP * spread:
        return order[:0], text
    return np.sort(order[:k] if k <= len(means) - k else order[k:]), text


def _list(noun: str, numbers: NDArray[np.intp]) -> str:
    words = [str(int(n)) for n in numbers]
    if len(words) == 1:
        return f"{noun} {words[0]}"
    return f"{noun}s {', '.join(words[:-1])} and {words[-1]}"
