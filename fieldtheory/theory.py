"""A theory: a network, the steps that reduce its action, and how the result is closed.

Everything else follows from these: equations of state, observables, powers of N, compiled predictions, branches,
LaTeX, and the verification of every step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr

from fieldtheory.action import Action
from fieldtheory.branches import as_table
from fieldtheory.checks import check_closure
from fieldtheory.dataset import Dataset
from fieldtheory.derivation import Derivation
from fieldtheory.errors import BadInput, FieldTheoryError, RuleError, UnknownName
from fieldtheory.microscopic import EXPONENTS, HYPERPARAMETERS, PER_TARGET, out_of_sight, site_quantities
from fieldtheory.network import Network
from fieldtheory.onesite.continuation import follow
from fieldtheory.onesite.environment import Effort
from fieldtheory.onesite.populations import Populations
from fieldtheory.onesite.prediction import SitePredictor
from fieldtheory.onesite.search import beginning
from fieldtheory.population.base import PopulationTheory
from fieldtheory.population.limit import population_limit
from fieldtheory.population.modes import Key
from fieldtheory.predictor import Predictor, call
from fieldtheory.solve import Solution
from fieldtheory.symbolic.closures import Closure, FieldClosure, ScalarClosure
from fieldtheory.symbolic.counting import PowerCounting, power_counting
from fieldtheory.symbolic.fields import entries
from fieldtheory.symbolic.loopcounting import count_closure
from fieldtheory.symbolic.loops import hbar
from fieldtheory.symbolic.rules import Step
from fieldtheory.symbolic.saddle import OrderParameter
from fieldtheory.symbolic.siteclosure import SiteClosure

DEFAULT_OUTPUTS = ("mean_output", "test_output", "variance_along_mean_output", "discrepancy_along_target",
                   "hidden_kernel_overlap", "readout_norm", "log_evidence")
HEAVY_OUTPUTS = ("output_covariance", "hidden_kernel", "adapted_kernel", "curvature_kernel", "log_evidence_gradient")
PROBED = {"hidden_kernel_overlap": "hidden_kernel", "hidden_kernel": "hidden_kernel",
          "adapted_kernel": "adapted_kernel"}
"""Outputs by the quadratic form that they need, which not every theory derives."""
MATRICES = {"output_covariance": "variance", "hidden_kernel": "hidden_kernel", "adapted_kernel": "adapted_kernel",
            "curvature_kernel": "curvature_kernel"}


def _effort(given: Mapping[str, int]) -> Effort:
    for name in given:
        if name not in Effort.__dataclass_fields__:
            raise UnknownName("effort", name, Effort.__dataclass_fields__)
    return Effort(**given)


def _loops(loops: int) -> str:
    return {0: "no loops", 1: "one loop"}.get(loops, f"{loops} loops")


class Theory:
    """What a theory file returns.

    Parameters
    ----------
    name, title : how it is called, and how it is headed.
    network : the network, whose numbers are the defaults of ``predict``.
    action : the reduced action, with the steps that led to it.
    loops : the order of the closure; an average errs at ħ^{loops+1}, ħ counting powers of 1/N.
    parameters : names of the sums that enter non-linearly, where a field over a space is left.
    view, source : which route was taken, and where it was published.
    """

    def __init__(self, name: str, title: str, network: Network, action: Action, *, loops: int = 0, view: str = "",
                 parameters: tuple[OrderParameter, ...] = (), source: str = "derived here") -> None:
        self.name, self.title, self.network, self.action = name, title, network, action
        self.loops, self.view, self.parameters, self.source = loops, view, parameters, source
        self.closure: Closure = action.close(loops, parameters=parameters)

    def __repr__(self) -> str:
        view = f", view={self.view!r}, loops={self.loops}" if self.view else ""
        return f"Theory({self.name!r}{view})"

    def with_network(self, network: Network) -> Theory:
        """The same theory for another network with the same microscopic action; what is compiled is shared.

        Raises
        ------
        BadInput
            If the activation differs, or one has biases or another prior, so that the derivation would differ.
        """
        if network.activation != self.network.activation:
            raise BadInput("network", f"activation {network.activation}", f"{self.network.activation}, as derived")
        if network.action().expr != self.network.action().expr:
            raise BadInput("network", network, "one with biases or without, and with the kind of prior, as derived")
        other = copy.copy(self)
        other.network = network
        other.__dict__.pop("derivation", None)  # it describes the network in words
        return other

    # --------------------------------------------------------------------------------------------- symbolic

    @property
    def definitions(self) -> dict[sp.Expr, sp.Expr]:
        """What the parameters stand for, with the exponents of this network's scaling put in where they are numbers."""
        numbers = {sp.Symbol(symbol, real=True): sp.nsimplify(value) for name, symbol in EXPONENTS.items()
                   if (value := getattr(self.network.scaling, name)) is not None}
        return {key: value.xreplace(numbers) for key, value in self.action.definitions.items()}

    @cached_property
    def equations(self) -> dict[str, sp.Eq]:
        """The equations of state by unknown: what each stands for, and the stationarity of the field that is left.

        ``closure.state.equations`` holds the same with the field eliminated, as they are compiled and solved.
        """
        return dict(self.closure.state.definitions)

    @cached_property
    def quantities(self) -> dict[str, sp.Expr]:
        """What the steps carry to the end, in the fields of the microscopic action."""
        found = dict(self.action.quantities)
        if isinstance(self.closure, SiteClosure):
            first = self.action.steps[0].before
            more = site_quantities(Action(first.expr, first.fields, quantities=found))
            for name, expr in more.items():
                try:
                    self.action.observe(expr)
                except RuleError:
                    continue
                found[name] = expr
        return found

    @cached_property
    def observables(self) -> dict[str, sp.Expr]:
        """What is predicted, in terms of the unknowns (and the field they determine), or averages over one site."""
        if isinstance(self.closure, SiteClosure):
            return {name: self.closure.average(self.action.observe(expr)) for name, expr in self.quantities.items()}
        return {**self._predictor.outputs, **self._predictor.probed, "log_evidence": self.closure.log_partition()}

    @cached_property
    def derivation(self) -> Derivation:
        """Every step from the microscopic action to the equations of state; verifies itself."""
        closed = bool(self.closure.state.unknowns)
        words = f"Close the action at its saddle point, with {_loops(self.loops)}." if closed else (
            "No field is left: what is asked for is a function of the data.")
        if isinstance(self.closure, SiteClosure):
            words = "One site is left; what it feels of the others follows from averages over its own law."
        closing = Step(rule="close", before=self.action.value, after=self.action.value, push=lambda o: o,
                       description=words, remainder=hbar**(self.loops + 1) if closed else None,
                       check=check_closure(self.closure))
        steps = (*self.action.steps, closing)
        notes = [f"Averages are kept through {_loops(self.loops)}; what is dropped is of order "
                 f"$\\hbar^{{{self.loops + 1}}}$, where $\\hbar$ counts loops; the power counting says what power of "
                 "$1/N$ that is."] if self.closure.state.unknowns else []
        return Derivation(title=self.title, network_description=self._description, steps=steps,
                          observables=self.quantities, equations=self.equations, results=self.observables,
                          abbreviations=self.closure.coefficients, notes=(*notes, f"Source: {self.source}."))

    @property
    def _description(self) -> str:
        net = self.network
        exponents = (f"scaling exponents $\\gamma = {net.scaling.readout}$ of the readout and "
                     f"$\\delta = {net.scaling.noise}$ of the noise") if net.scaling.is_numeric else (
            "scaling exponents $\\gamma$ of the readout and $\\delta$ of the noise")
        inside, biases = (" + b_i", "the hidden biases $b_i$ have $\\sigma_b^2$, ") if net.has_bias else ("", "")
        weights = ("$1/\\lambda_d$ with precisions $\\lambda_d$ of the inputs, which have the prior "
                   "$\\mathrm{Gamma}(\\alpha_0, \\beta_0)$") if net.has_ard else "$\\sigma_w^2/D$"
        return (f"The network is $f(x) = \\sum_i a_i \\phi(w_i \\cdot x{inside})$ of width $N$, with "
                f"{net.activation} activation and {exponents}.  The readout $a_i$ has prior variance $g/N$, the hidden "
                f"weights $w_{{id}}$ have {weights}, {biases}and every sample carries Gaussian noise of variance $s$ "
                "(the variance, not the standard deviation).")

    def power_counting(self, *, of: str = "corrections", constraints: Sequence[Any] = ()) -> PowerCounting:
        """The exponent of N of every contribution, symbolic in γ, δ (where the scaling leaves them) and P ~ N^p.

        ``of="corrections"`` asks what the saddle leaves out, ``of="equation"`` for the terms of the equation of
        state, ``of="loops"`` for vertices, lines and loop orders, and where a fixed order closes (a `LoopCounting`).
        Assumes λ_k and y_k of order one; see ``.assumptions`` of the result.
        """
        closure = self.closure
        if of == "loops" and closure.state.unknowns:
            return count_closure(closure, self._exponents([self.action.expr], [*self.action.fields]),
                                 constraints=constraints)
        tree = closure.tree if isinstance(closure, FieldClosure) else closure.state
        if not tree.unknowns:
            raise BadInput("theory", self.name, "a theory with an equation of state")
        contributions, corrections = dict(closure.contributions), {}
        if of == "corrections":
            corrections = closure.corrections
            if isinstance(closure, ScalarClosure):
                contributions = {"saddle": sp.S.One}
        elif of != "equation":
            raise UnknownName("of", of, ("corrections", "equation", "loops"))
        exprs = [*tree.equations, *contributions.values(), *corrections.values()]
        known = self._exponents(exprs, tree.unknowns)
        return power_counting(tree.equations, tree.unknowns, known, contributions | corrections,
                              corrections=tuple(corrections), constraints=constraints)

    def _exponents(self, exprs: Sequence[sp.Expr], unknowns: Sequence[sp.Symbol]) -> dict[Any, Any]:
        """The exponent of N of everything known, from what the action says it stands for; data are of order one."""
        definitions, width = self.action.definitions, self.action.width
        if width is None:
            raise BadInput("action", self.name, "an action that says which symbol is the width N")
        p = sp.Symbol("p", real=True)
        data = sorted({entry for expr in exprs for entry in entries(expr)}, key=sp.default_sort_key)
        known: dict[Any, Any] = {width: sp.S.One}
        known |= {entry: sp.S.Zero for entry in data}
        known |= {space.size: p for entry in data for space in entry.spaces}
        hyperparameters = {symbol for value in definitions.values() for symbol in value.free_symbols} - {width}
        wanted = set().union(*(expr.free_symbols for expr in exprs)) - set(unknowns) - set(known)
        for symbol in sorted(wanted, key=sp.default_sort_key):
            if symbol in definitions:
                power = sp.simplify(width * sp.diff(sp.log(definitions[symbol]), width))
                if power.has(width):
                    raise BadInput("definitions", definitions[symbol], f"a power of {width} times other parameters")
                known[symbol] = power
            elif symbol in hyperparameters:
                known[symbol] = sp.S.Zero
            else:
                raise BadInput("action", symbol, "symbols that are defined in terms of the width and hyperparameters")
        return known

    # -------------------------------------------------------------------------------------------- numerical

    @cached_property
    def _site_predictor(self) -> SitePredictor:
        assert isinstance(self.closure, SiteClosure)
        return SitePredictor(self.closure, {name: self.action.observe(expr) for name, expr in self.quantities.items()})

    @cached_property
    def _predictor(self) -> Predictor:
        if isinstance(self.closure, SiteClosure):
            raise RuleError(f"{self.name} is closed by averages over one site, not by equations in a few unknowns: it "
                            "has predict, and neither solutions nor branches")
        return Predictor(self.action, self.closure, f"{self.name}_{self.view}_{self.loops}".replace("-", "_"))

    @property
    def kernel(self) -> Any:
        """The compiled equations of state (``.source`` shows the code); for a theory without any, the outputs."""
        predictor = self._predictor
        return predictor.state_kernel if self.closure.state.unknowns else predictor.output_kernel

    def solutions(self, data: Dataset, *, width: int | None = None) -> tuple[Solution, ...]:
        """Every solution of the equations of state, with residual, stability and weight."""
        return self._predictor.solutions(self._values(data, width))

    def _values(self, data: Dataset, width: int | None, network: Network | None = None) -> dict[str, Any]:
        net = network or self.network
        spectrum, _ = self._predictor.seen(net, data)
        return self._predictor.numbers(net, data, spectrum, width)

    def predict(self, data: Dataset, *, width: int | None = None, outputs: Sequence[str] | None = None,
                effort: Mapping[str, int] | None = None, start: Any = "prior",
                relevant: Sequence[int] | None = None) -> xr.Dataset:
        """Predict on data: numbers and arrays over training and test points.

        Variables: mean_output (sample), test_output (test), variance_along_mean_output, discrepancy_along_target,
        hidden_kernel_overlap, readout_norm, log_evidence, the unknowns; on request output_covariance, hidden_kernel,
        adapted_kernel and curvature_kernel (sample, other_sample) and log_evidence_gradient (hyperparameter).
        The adapted kernel C = g ⟨Σ_i h_i h_iᵀ⟩/N regresses to the mean output, C (C+s)⁻¹ y at tree level; the
        curvature kernel C' = ⟨W''(j)⟩ gives its covariance, s C' (C'+s)⁻¹.  They differ: a saddle in j moves the mean
        along C and lets it fluctuate along C'.  The gradient of the log evidence is ⟨-∂S/∂θ⟩ at the order of the
        averages: with L loops, the slope of the ``log_evidence`` of L-1 loops.  Theories that are closed at one site
        give ``weight_second_moment`` and ``relevance`` (input), the second moment of the hidden weights and the same
        relative to its mean over the inputs, and on request ``output_variance`` and ``test_output_variance``; each has
        its Monte-Carlo error as ``_mcse``.  ``effort`` says how long particles run, ``start`` where they begin:
        "prior", "large", "planted" along the inputs ``relevant``, or weights (neuron, input).  Attributes: status,
        residual, remainder (of each variable too; absolute).  After the eigendecomposition of K, which the data keep,
        the cost is O(P²).

        Raises
        ------
        NotConverged
            If the equations of state have no solution; it carries the residual.
        BadInput
            For a number that is missing, an unknown output, or noise zero where the limit does not exist.
        """
        if not isinstance(data, Dataset):
            raise BadInput("data", type(data).__name__, "a Dataset (ft.Dataset(X, y), ft.tasks.ising(...), ...)")
        if isinstance(outputs, str):
            raise BadInput("outputs", repr(outputs), "a list of names")
        if isinstance(self.closure, SiteClosure):
            averaged = self._predict_from_site(data, width, outputs, _effort(effort or {}), start, relevant)
            return self._with_sight(averaged, data)
        if effort:
            raise BadInput("effort", dict(effort), f"none: {self.name} needs no particles")
        if not isinstance(start, str) or start != "prior" or relevant is not None:
            raise BadInput("start", start, f"none: {self.name} finds all solutions of its equations")
        predictor, net = self._predictor, self.network
        underived = {name for name, source in PROBED.items() if source not in predictor.probed}
        wanted = [name for name in DEFAULT_OUTPUTS if name not in underived] if outputs is None else list(outputs)
        for name in wanted:
            if name not in (*DEFAULT_OUTPUTS, *HEAVY_OUTPUTS):
                raise UnknownName("outputs", name, (*DEFAULT_OUTPUTS, *HEAVY_OUTPUTS))
            if name in underived:
                raise BadInput("outputs", name, f"an output that {self.name} derives: the law of the hidden weights "
                               "beyond that of the features is not known there")
        given = self._values(data, width)
        spectrum, kernel_error = predictor.seen(net, data)
        best, values = predictor.state(given)
        found = call(predictor.output_kernel, values)
        modes = np.broadcast_to(found["mean_output"], data.samples)
        has_target = bool(np.any(data.y))
        has_direction = np.linalg.norm(modes) > 1e-12 * np.linalg.norm(data.y)
        variables: dict[str, Any] = {name: ((), value) for name, value in best.values.items()}
        variables["mean_output"] = (("sample",), spectrum.from_modes(modes))
        if "test_output" in wanted and spectrum.test_basis is not None:
            test = spectrum.test_from_modes(found["test_coefficients"]) * predictor.projection_scale(values)
            variables["test_output"] = (("test",), test)
        for name in ("readout_norm", "discrepancy_along_target"):
            variables[name] = ((), found[name])
        if "log_evidence" in wanted:
            variables["log_evidence"] = ((), predictor.log_evidence(given, values))
        if "variance_along_mean_output" in wanted:
            norm = float(np.linalg.norm(modes))
            direction = modes / norm if has_direction else modes
            probed = call(predictor.probe_kernel, values | {"v": direction})
            variables["variance_along_mean_output"] = ((), probed["variance"])
        if "hidden_kernel_overlap" in wanted:
            norm = float(np.linalg.norm(values["y"]))
            target = values["y"] / norm if norm > 0 else values["y"]
            probed = call(predictor.probe_kernel, values | {"v": target})
            variables["hidden_kernel_overlap"] = ((), probed["hidden_kernel"])
        for name in wanted:
            if name in MATRICES:
                variables[name] = (("sample", "other_sample"), predictor.matrix(MATRICES[name], values, spectrum))
        if "log_evidence_gradient" in wanted:
            slopes = call(predictor.gradient_kernel, values)
            variables["log_evidence_gradient"] = (("hyperparameter",), np.array(list(slopes.values())))
        kept = {name: value for name, value in variables.items() if name in wanted or name in best.values}
        coords = {"hyperparameter": list(predictor.gradient)} if "log_evidence_gradient" in kept else {}
        status, undefined = best.status, set() if has_target else set(PER_TARGET) & set(kept)
        if not has_direction:
            undefined |= {"variance_along_mean_output"} & set(kept)
        self._check_finite({name: value for name, value in kept.items() if name not in undefined})
        if undefined:
            kept |= {name: ((), np.nan) for name in undefined}
            zero = "mean output" if has_target else "target"
            status += f"; the {zero} is zero, and {', '.join(sorted(undefined))} not defined"
        attributes = self._attributes(data, values, best) | {"status": status}
        if predictor.features is not None:
            attributes["kernel_error"] = kernel_error
        prediction = xr.Dataset(kept, coords=coords, attrs=attributes)
        for name in kept:
            prediction[name].attrs["remainder"] = self._remainder(MATRICES.get(name, name))
        return self._with_sight(prediction, data)

    def _with_sight(self, prediction: xr.Dataset, data: Dataset) -> xr.Dataset:
        """With what the activation cannot see of the target in ``status``, where the target's modes are known."""
        reason = out_of_sight(self.network, data.orders)
        return prediction if reason is None else prediction.assign_attrs(status=f"{prediction.status}; {reason}")

    def _predict_from_site(self, data: Dataset, width: int | None, outputs: Sequence[str] | None, effort: Effort,
                           start: Any, relevant: Sequence[int] | None) -> xr.Dataset:
        net, wanted = self.network, None if outputs is None else list(outputs)
        prediction = self._site_predictor.predict(net, data, width, wanted, effort,
                                                  beginning(start, relevant, effort.seed))
        dropped = " + ".join(dict.fromkeys(f"O({step.remainder})" for step in self.action.steps if not step.exact))
        for variable in prediction.data_vars.values():
            variable.attrs["remainder"] = dropped
        return prediction.assign_attrs(
            theory=self.name, view=self.view, loops=self.loops, remainder=dropped, dataset=data.name,
            width=net.resolve_width(width), samples=data.samples, scaling=net.scaling.name,
            prior=str(net.prior), bias_variance=float(net.bias_variance or 0.0),
            **{name: float(value) for name in HYPERPARAMETERS if (value := getattr(net, name)) is not None})

    def population_limit(self, law: str = "hypercube", target: Key | Mapping[Key, float] = 2, *,
                         modes: Sequence[Key] | None = None, order: int | None = None) -> PopulationTheory:
        """The theory for infinitely many samples of a law of inputs, and a target with few modes (:mod:`.population`).

        ``law`` is "hypercube" or "gaussian".  ``target`` is k for the parity of k inputs (or {k: coefficient}); for
        Gaussian inputs {n: g} is g he_n(x_1), {(1, 1): g} is g he_1(x_1) he_1(x_2), along any orthonormal directions.
        ``modes`` and ``order`` say which modes of the output theories keep that keep few (mean field, adaptive kernel);
        without them those up to two orders above the target, and ``modes=[]`` keeps the target's alone.
        ``.solve(input_dim, noise=s/P)`` of the result gives order parameters, test error and what certifies them.

        Raises
        ------
        BadInput
            For a theory that has no population limit, or a target that the activation cannot see: with the reason.
        """
        return population_limit(self.action, self.network, law, target, modes=modes, order=order, loops=self.loops)

    def follow(self, data: Dataset, *, along: str, values: Sequence[float], width: int | None = None,
               effort: Mapping[str, int] | None = None) -> xr.Dataset:
        """Follow the solution along the noise or the number of samples, up and down, each point from the one before.

        ``along`` is "noise_variance" (s_0) or "samples" (the first ones of the data).  The result has the dimensions
        (direction, value): ``order_parameter`` f·y/y·y at the samples and ``test_order_parameter``, residual, spread,
        status; ``difference`` between the directions with its error, and ``hysteresis`` where it is significant.

        Raises
        ------
        BadInput
            For a theory whose equations of state have all their solutions found (``branches``), or bad values.
        """
        if not isinstance(self.closure, SiteClosure):
            raise BadInput("theory", self.name, "a theory that is closed at one site; this one has branches")
        found = follow(self._site_predictor, self.network, data, width, along, values, _effort(effort or {}))
        return found.assign_attrs(theory=self.name, width=self.network.resolve_width(width), dataset=data.name)

    @cached_property
    def _populations(self) -> Populations:
        if not isinstance(self.closure, SiteClosure):
            raise BadInput("theory", self.name, "a theory of independent sites (mean-field)")
        return Populations(self._site_predictor, self.action)

    def populations(self, data: Dataset, *, sizes: tuple[int, int], width: int | None = None, starts: int = 7,
                    relevant: Sequence[int] | None = None, rounds: int = 8,
                    effort: Mapping[str, int] | None = None, seed: int = 0) -> xr.Dataset:
        """Solutions with two laws, for ``sizes`` = (N_1, N_2) of the neurons: broken permutation symmetry.

        In one or two hidden components all that is found from many starts, best first (solution): the outputs of both
        populations, ``log_evidence_bound``, ``asymmetry`` (0: the symmetric solution) and ``contraction``, below 1
        where the free energy has a minimum.  In more, particles: the first population begins along the inputs
        ``relevant``, the second at the prior, and ``share`` says what part of the target one neuron of each makes,
        round after round.

        Raises
        ------
        BadInput
            If the theory has no variational free energy of independent sites, or the sizes do not add up.
        """
        equations, net = self._populations, self.network
        if relevant is None:
            found = equations.solutions(net, data, width, sizes, starts, seed)
        else:
            given = _effort({"seed": seed} | dict(effort or {}))
            found = equations.planted(net, data, width, sizes, relevant, given, rounds)
        return found.assign_attrs(theory=self.name, width=net.resolve_width(width), dataset=data.name)

    def _remainder(self, quantity: str) -> str:
        """What was dropped: by the approximate steps, and by the closure."""
        dropped = [f"O({step.remainder})" for step in self.action.steps if not step.exact]
        closing = self.closure.remainder_of(quantity)
        if closing != "0":
            dropped.append(f"O({closing})")
        return " + ".join(dict.fromkeys(dropped)) or "0"

    def _check_finite(self, variables: Mapping[str, tuple[Any, Any]]) -> None:
        for name, (_, value) in variables.items():
            if not np.all(np.isfinite(value)):
                raise FieldTheoryError(f"{self!r} gives a value of {name} that is not finite")

    def _attributes(self, data: Dataset, values: Mapping[str, Any], best: Solution) -> dict[str, Any]:
        net = self.network
        return {"theory": self.name, "view": self.view, "loops": self.loops, "status": best.status,
                "residual": best.residual, "remainder": self._remainder(""), "dataset": data.name,
                "width": int(values["N"]), "samples": data.samples, "scaling": net.scaling.name,
                **{name: float(getattr(net, name)) for name in HYPERPARAMETERS}}

    def branches(self, data: Dataset, *, along: str = "chi", values: Sequence[float] | None = None,
                 width: int | None = None) -> xr.Dataset:
        """All roots of the equation of state along χ: g = σ_a²/χ, s = s_0/χ from standard (1) to mean-field (N).

        Dimensions (chi, branch): the unknown under its name, action, curvature, weight, stability (1, 0, -1).
        """
        if along != "chi":
            raise UnknownName("along", along, ("chi",))
        N = self.network.resolve_width(width)
        chi = np.geomspace(1.0, N, 41) if values is None else np.asarray(values, dtype=float)
        if chi.ndim != 1 or len(chi) < 1 or not np.all(chi > 0):
            raise BadInput("values", values, "positive numbers")
        found = self._predictor.branches(lambda p: self._values(data, N, self.network.along(float(p))), list(chi))
        table = as_table(found, self.closure.state.unknowns[0].name, along, chi)
        return table.assign_attrs(theory=self.name, view=self.view, width=N)
