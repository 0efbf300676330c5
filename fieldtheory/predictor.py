"""From a closed action to numbers: compile its expressions once, then solve and evaluate them on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.branches import Branch, continue_branches
from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.dataset import Dataset, Spectrum
from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.features import FeatureKernel, feature_data
from fieldtheory.microscopic import BIAS_PARAMETER, HYPERPARAMETERS
from fieldtheory.network import Network
from fieldtheory.newton import homotopy
from fieldtheory.solve import Solution, solve_scalar
from fieldtheory.symbolic.closures import (
    Closure,
    FieldClosure,
    ScalarClosure,
    hyperparameter_derivative,
    linear_coefficient,
)
from fieldtheory.symbolic.fields import Entry, entries
from fieldtheory.symbolic.forms import Form, hessian
from fieldtheory.symbolic.loops import hbar
from fieldtheory.symbolic.rules import Step

Array = np.ndarray
Values = dict[str, Any]

SEARCH = (1e-14, 1e14)
"""Where a positive unknown is looked for, in units of the scale that the caller gives."""


def compile_expressions(expressions: Mapping[str, sp.Expr], name: str) -> Kernel:
    """Compile with whatever symbols and data the expressions contain as arguments, in a fixed order.

    A field enters at its saddle, a real number also where its contour is imaginary.
    """
    fields = {e for expr in map(sp.sympify, expressions.values()) for e in entries(expr) if e.domain == "imaginary"}
    real = {field: Entry(field.name, "data", field.spaces) for field in fields}
    expressions = {label: sp.sympify(expr).xreplace(real) for label, expr in expressions.items()}
    data: dict[str, Entry] = {}
    symbols: dict[str, sp.Symbol] = {}
    sizes = set()
    for expr in expressions.values():
        for entry in entries(expr):
            data[entry.name] = entry
            sizes |= {space.size for space in entry.spaces}
        for symbol in expr.free_symbols:
            symbols[symbol.name] = symbol
    scalars = [symbols[key] for key in sorted(symbols) if symbols[key] not in sizes]
    return compile_kernel(expressions, scalars=scalars, entries=[data[key] for key in sorted(data)], name=name)


def call(kernel: Kernel, values: Values) -> dict[str, Any]:
    """Call a kernel with those of the values that it takes."""
    for key in kernel.arguments:
        if key not in values:
            raise BadInput("action", key, f"symbols that a network has: {', '.join(sorted(values))}")
    return kernel(**{key: values[key] for key in kernel.arguments})


class Predictor:
    """A closed action with its observables, compiled where first used.

    ``action`` carries the quantities of a two-layer network (see ``microscopic_action``) through its steps.
    """

    def __init__(self, action: Action, closure: Closure, name: str) -> None:
        self.action, self.closure, self.name = action, closure, name
        self._feature_data: WeakKeyDictionary[Dataset, dict[Any, tuple[Dataset, float, float]]] = WeakKeyDictionary()

    def _step(self, rule: str) -> Step | None:
        return next((step for step in self.action.steps if step.rule == rule), None)

    # ------------------------------------------------------------------------------------------------- data

    @cached_property
    def features(self) -> FeatureKernel | None:
        """The kernel of Gaussian features, where a step made the features Gaussian."""
        step = self._step("gaussian_features")
        return None if step is None else FeatureKernel(step.details["activation"], step.details["kernel"])

    def seen(self, net: Network, data: Dataset) -> tuple[Spectrum, float]:
        """The spectrum of the kernel that the theory sees, kept with the data, and the error of that kernel."""
        if net.weight_variance is None:
            raise BadInput("weight_variance", None, "a number (it is still a symbol)")
        if self.features is None:
            return data.spectrum(float(net.weight_variance)), 0.0
        if net.bias_variance is None:
            raise BadInput("bias_variance", None, "a number (it is still a symbol)")
        numbers = {"sigma_w^2": float(net.weight_variance), BIAS_PARAMETER: float(net.bias_variance),
                   "D": float(data.input_dim or 1)}
        kept = self._feature_data.setdefault(data, {})
        key = tuple(numbers.values())
        if key not in kept:
            kept[key] = feature_data(self.features, self._step("gaussian_features").details, numbers, data)  # type: ignore[union-attr]
        found, weight, error = kept[key]
        return found.spectrum(weight), error

    def projection_scale(self, values: Values) -> float:
        """X_* Xᵀ as a multiple of K_*, which the eigenbasis of K was named with."""
        step = self._step("diagonalise")
        assert step is not None
        scale = sp.sympify(step.details["scale"])
        return float(scale.xreplace({symbol: sp.Float(values[symbol.name]) for symbol in scale.free_symbols}))

    # ------------------------------------------------------------------------------------------ expressions

    @cached_property
    def outputs(self) -> dict[str, sp.Expr]:
        """Averages that need no probe: numbers, and vectors over modes."""
        test = self.closure.average(self.action.observe("test_output"))
        (projection,) = (e for e in entries(test) if any(s.name == "test" for s in e.spaces))
        return {
            "mean_output": self.closure.average(self.action.observe("output")),
            "test_coefficients": linear_coefficient(test, projection),
            "readout_norm": self.closure.average(self.action.observe("readout_norm")),
            "discrepancy_along_target": self.closure.average(self.action.observe("discrepancy_along_target")),
        }

    @cached_property
    def probed(self) -> dict[str, sp.Expr]:
        """Quadratic forms in a probe v over the samples."""
        output, square = (self.action.observe(name) for name in ("probed_output", "probed_output_squared"))
        found = {"variance": self.closure.variance(output, square)}
        if "hidden_kernel" in self.action.quantities:  # not of a nonlinear layer whose features were made Gaussian
            hidden = self.closure.average(self.action.observe("hidden_kernel"))
            found |= {"hidden_kernel": hidden, "adapted_kernel": sp.Symbol("g", positive=True) * hidden}
        return found | {"curvature_kernel": self._curvature_kernel()}

    def _curvature_kernel(self) -> sp.Expr:
        """vᵀ ⟨W''(j)⟩ v: minus the curvature of the action in the conjugate of the output, before the output goes."""
        steps = self.action.steps
        named = next(step for step in steps if step.rule == "introduce")
        output, conjugate = (field.name for field in named.added)  # type: ignore[attr-defined]
        k, leaving = next((k, step) for k, step in enumerate(steps)
                          if any(getattr(field, "name", "") == output for field in step.removed))
        j = leaving.before.find(conjugate)
        assert isinstance(j, Entry)
        form = hessian(leaving.before.expr, j).scale(sp.S.NegativeOne)
        return self.closure.average(self.action.observe(form.quadratic(Entry("v", "data", j.spaces)), start=k))

    @cached_property
    def gradient(self) -> dict[str, sp.Expr]:
        """∂ ln Z/∂θ = -⟨∂S/∂θ⟩ for every hyperparameter θ on which the action depends through what it is written in.

        Without σ_w² where the kernel of the features is no power of it: its eigenvectors turn with it.
        """
        known = self.action.expr.free_symbols.union(*(v.free_symbols for v in self.action.definitions.values()))
        symbols = {name: sp.Symbol(symbol, positive=True) for name, symbol in HYPERPARAMETERS.items()}
        return {name: self.closure.average(-hyperparameter_derivative(
            self.action.expr, symbol, self.action.definitions)) for name, symbol in symbols.items() if symbol in known}

    # ---------------------------------------------------------------------------------------------- kernels

    @cached_property
    def state_kernel(self) -> Kernel:
        state = self.closure.state
        table = {f"equation_{k}": equation for k, equation in enumerate(state.equations)}
        if len(state.unknowns) == 1:
            table["slope"] = sp.diff(state.equations[0], state.unknowns[0])
        return compile_expressions(table, f"{self.name}_state")

    @cached_property
    def action_kernel(self) -> Kernel:
        closure = self.closure
        assert isinstance(closure, ScalarClosure)
        table = {"action": closure.state.action, "curvature": closure.curvature}
        return compile_expressions(table, f"{self.name}_action")

    @cached_property
    def coefficient_kernels(self) -> tuple[Kernel, ...]:
        """First the derivatives of the action at the saddle, then the loop coefficients made of them."""
        table = self.closure.coefficients
        inner = {str(k): v for k, v in table.items() if not v.free_symbols & set(table)}
        outer = {str(k): v for k, v in table.items() if str(k) not in inner}
        return tuple(compile_expressions(part, f"{self.name}_coefficients") for part in (inner, outer) if part)

    @cached_property
    def profile_kernel(self) -> Kernel | None:
        closure = self.closure
        if not isinstance(closure, FieldClosure):
            return None
        return compile_expressions({closure.field.name: closure.state.profile}, f"{self.name}_profile")

    @cached_property
    def output_kernel(self) -> Kernel:
        return compile_expressions(self.outputs, f"{self.name}_outputs")

    @cached_property
    def evidence_kernel(self) -> Kernel:
        return compile_expressions({"log_evidence": self.closure.log_partition()}, f"{self.name}_evidence")

    @cached_property
    def probe_kernel(self) -> Kernel:
        return compile_expressions(self.probed, f"{self.name}_probe")

    @cached_property
    def gradient_kernel(self) -> Kernel:
        return compile_expressions(self.gradient, f"{self.name}_gradient")

    @cached_property
    def form_kernels(self) -> dict[str, tuple[Kernel, Form]]:
        """The quadratic forms in v as diagonal plus low rank: ½ δ²/δvδv."""
        made = {}
        for name, expr in self.probed.items():
            (probe,) = (e for e in entries(expr) if e.name == "v")
            form = hessian(expr, probe).scale(sp.Rational(1, 2))
            parts = {"diag": form.diag}
            for k, (u, v) in enumerate(form.pairs):
                parts |= {f"u{k}": u, f"v{k}": v}
            made[name] = (compile_expressions(parts, f"{self.name}_{name}"), form)
        return made

    # ------------------------------------------------------------------------------------------------ solve

    def numbers(self, net: Network, data: Dataset, spectrum: Spectrum, width: int | None) -> Values:
        """Every symbol and datum by the name it has in the expressions."""
        N = net.resolve_width(width)
        s = net.effective_noise_variance(N)
        if s == 0 and (spectrum.rank < data.samples or np.min(spectrum.eigenvalues) <= 0):
            raise BadInput("noise_variance", 0, "a positive number: K is rank-deficient "
                           f"({spectrum.rank} of {data.samples}), and without noise the limit does not exist")
        return {
            "N": float(N), "D": float(data.input_dim or 1), "g": net.effective_readout_variance(N), "s": s,
            "sigma_a^2": float(net.readout_variance), "sigma_w^2": float(net.weight_variance),  # type: ignore[arg-type]
            "s_0": float(net.noise_variance), "hbar": 1.0,  # type: ignore[arg-type]
            "lambda": spectrum.eigenvalues, "y": spectrum.target_modes,
        }

    def solutions(self, values: Values) -> tuple[Solution, ...]:
        """All solutions of the equations of state (one unknown), or the one continued from the saddle without loops.

        Raises
        ------
        NotConverged
            Where there is none; the residual says how far from one the search ended.
        """
        state = self.closure.state
        if not state.unknowns:
            return (Solution({}, 0.0),)
        if isinstance(self.closure, ScalarClosure) or (len(state.unknowns) == 1 and not self.closure.loops):
            return self._scalar_solutions(values)
        return (self._continued(values),)

    def _scalar_solutions(self, values: Values) -> tuple[Solution, ...]:
        (unknown,) = self.closure.state.unknowns
        function = self._bind(self.state_kernel, values, unknown.name)
        action = None
        if isinstance(self.closure, ScalarClosure):
            action = self._bind(self.action_kernel, values, unknown.name)
        low, high = (values["g"] * edge for edge in SEARCH)
        return solve_scalar(function, low, high, unknown=unknown.name, domain=self.closure.state.domains[0],
                            action=action)

    @staticmethod
    def _bind(kernel: Kernel, values: Values, *free: str) -> Any:
        return kernel.bind(*free, **{key: values[key] for key in kernel.arguments if key not in free})

    @cached_property
    def without_loops(self) -> Predictor:
        """The same action, closed at its saddle."""
        assert isinstance(self.closure, FieldClosure)
        return Predictor(self.action, FieldClosure(self.action.value, 0, self.closure.parameters), f"{self.name}_tree")

    def _continued(self, values: Values) -> Solution:
        """Loops switched on from ħ = 0 to 1; at ħ = 0 every named sum is an explicit function of the rest."""
        state = self.closure.state
        names = [unknown.name for unknown in state.unknowns]
        free = [*names, hbar.name]
        bound = self._bind(self.state_kernel, values, *(name for name in free if name in self.state_kernel.arguments))
        count = len(names)

        def residual(x: Array, t: float) -> Array:
            return np.array(bound(*x, t)[:count])

        roots = self.without_loops.solutions(values)
        start = np.zeros(count)
        for name, value in roots[0].values.items():
            start[names.index(name)] = value
        named = [k for k, name in enumerate(names) if name not in roots[0].values]
        start[named] = -residual(start, 0.0)[named]
        path = homotopy(residual, start, domains=state.domains, tolerance=1e-10, partial=True)
        end = path.roots[-1]
        if path.fold is not None:
            raise NotConverged("the equations of state have no solution that continues the saddle: switched on from "
                               f"ħ = 0, the loops can be followed only to ħ = {path.parameters[-1]:.6g}", end.residual)
        return Solution(dict(zip(names, map(float, end.values), strict=True)), float(end.residual))

    def state(self, values: Values) -> tuple[Solution, Values]:
        """The dominant solution, and everything that follows from it by name: unknowns, coefficients, profile."""
        solutions = self.solutions(values)
        best = max(solutions, key=lambda solution: -1.0 if solution.weight is None else solution.weight)
        values = values | dict(best.values)
        for kernel in self.coefficient_kernels if self.closure.coefficients else ():
            values = values | call(kernel, values)
        if self.profile_kernel is not None:
            values = values | call(self.profile_kernel, values)
        return best, values

    def log_evidence(self, values: Values, at: Values) -> float:
        """ln Z at the solution ``at``.

        One loop of ln Z about the saddle is -S - ½ ln det at the saddle *without* loops: at the stationary point of the
        effective action the reducible two-loop term would come in, without the others that it nearly cancels.
        """
        if isinstance(self.closure, FieldClosure) and self.closure.loops:
            return self.without_loops.log_evidence(values, self.without_loops.state(values)[1])
        return float(call(self.evidence_kernel, at)["log_evidence"])

    # -------------------------------------------------------------------------------------------- branches

    def branches(self, values_at: Any, parameters: Sequence[float]) -> tuple[Branch, ...]:
        """All roots at every value of a parameter; ``values_at`` maps a parameter value to named values."""
        state = self.closure.state
        if len(state.unknowns) != 1 or state.action is None:
            raise RuleError("branches need one unknown whose action is known; use the rescaling view")
        name = state.unknowns[0].name
        cache: dict[float, tuple[Any, Any]] = {}

        def kernels(parameter: float) -> tuple[Any, Any]:
            if parameter not in cache:
                values = values_at(parameter)
                state_at, action_at = (self._bind(kernel, values, name)
                                       for kernel in (self.state_kernel, self.action_kernel))
                cache[parameter] = (state_at, action_at)
            return cache[parameter]

        scales = [values_at(parameter)["g"] for parameter in (min(parameters), max(parameters))]
        return continue_branches(lambda x, p: kernels(p)[0](x), parameters, min(scales) * SEARCH[0],
                                 max(scales) * SEARCH[1], unknown=name, domain=state.domains[0],
                                 action=lambda x, p: kernels(p)[1](x))

    # --------------------------------------------------------------------------------------------- matrices

    def matrix(self, name: str, values: Values, spectrum: Spectrum) -> Array:
        """A quadratic form in v as a symmetric matrix over the samples (P, P)."""
        kernel, form = self.form_kernels[name]
        parts = call(kernel, values)
        P = spectrum.samples
        modes = np.broadcast_to(parts["diag"], P)
        U = spectrum.basis
        r = spectrum.rank
        matrix = (U * modes[:r]) @ U.T
        if r < P:  # the complement of the range of K, where the form is a multiple of the identity
            matrix += modes[r] * (np.eye(P) - U @ U.T)
        for k in range(len(form.pairs)):
            matrix += np.outer(spectrum.from_modes(parts[f"u{k}"]), spectrum.from_modes(parts[f"v{k}"]))
        return (matrix + matrix.T) / 2
