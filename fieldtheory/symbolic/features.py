r"""The Gaussian approximation of a hidden layer's features, a rule like those of :mod:`.symbolic.rules`.

The features φ_iμ = φ(h_iμ) of one site, with h Gaussian under the prior, enter the action as a_i j_μ φ_iμ.  Averaged
over the hidden weights, and over the sign of a_i on which nothing else depends, a site's factor is

    ln E cosh(a ψ) = a² E[ψ²]/2 + a⁴ (E[ψ⁴] - 3 E[ψ²]²)/24 + …,   ψ = Σ_μ j_μ φ_μ,

so that to second order the features may be replaced by Gaussian ones with the same second *moment* (not the same
covariance: the mean of φ counts, because the sign of the readout is free).  With a_i² = O(1/N) the N sites together
drop a term of order 1/N.  Gaussian features are linear in Gaussian latents z with data F, F Fᵀ = K_φ = E[φ φᵀ]: what
follows are the rules of the linear network.  Derived here; the closure is that of Li and Sompolinsky 2021 and
Pacelli et al. 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import sympy as sp

from fieldtheory.errors import BadInput, NotGaussian, RuleError
from fieldtheory.symbolic.averages import GaussianAverage, elementary
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    distribute,
    entries,
    structure_key,
    sum_over,
    tidy,
)
from fieldtheory.symbolic.forms import gaussian
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, replacement, tex

U, V = sp.Symbol("u", real=True), sp.Symbol("v", real=True)
"""The pre-activations at two points, as the definition of the kernel names them."""
SIGMA_U, SIGMA_V = sp.Symbol("sigma_u", positive=True), sp.Symbol("sigma_v", positive=True)
CORRELATION = sp.Symbol("rho", real=True)
"""Their standard deviations and correlation."""


class SiteAverage(sp.Expr):
    """⟨body⟩ over the fields of one site under their prior: args (body, prior, fields), the fields bound."""

    is_commutative = True

    def __new__(cls, body: sp.Expr, prior: sp.Expr, fields: sp.Tuple) -> sp.Expr:  # type: ignore[misc]
        if not any(depends_on(body, field) for field in fields):
            return body
        return super().__new__(cls, body, prior, fields)

    @property
    def body(self) -> sp.Expr:
        return self.args[0]  # type: ignore[return-value]

    @property
    def prior(self) -> sp.Expr:
        return self.args[1]  # type: ignore[return-value]

    @property
    def fields(self) -> tuple[Entry, ...]:
        return tuple(self.args[2])  # type: ignore[arg-type]

    def _latex(self, printer: Any) -> str:
        names = ", ".join(printer._print(sp.Symbol(field.name)) for field in self.fields)
        return rf"\left\langle {printer._print(self.body)} \right\rangle_{{{names}}}"


class _Coupling(NamedTuple):
    """coefficient · φ(h), summed over ``spaces``: how the hidden layer enters; ``activation`` is φ(u)."""

    coefficient: sp.Expr
    spaces: tuple[Space, ...]
    feature: sp.Expr
    preactivation: sp.Expr
    matrix: Entry
    activation: sp.Expr


def gaussian_features(action: FieldAction, weights: Entry, *, features: str = "F", latent: str = "z",
                      space: str = "feature", projections: Mapping[Entry, str] | None = None) -> Step:
    r"""Replace the features of every site by Gaussian ones of the same second moment, F_μ·z_i.

    The hidden weights (and biases that are added to their pre-activation) go; latents z ~ N(0, t), data F over
    (sample, feature) with t F Fᵀ = K_φ, and for each of ``projections`` data at its rows, come.  The law of the
    pre-activations is read from the action; t = (prior variance)^p where φ(xh) = x^p φ(h) for x > 0, else 1.

    ``details``: ``activation`` φ(u), ``kernel`` E[φ(u)φ(v)] as a :class:`GaussianAverage`, ``dropped`` the first term
    that is dropped (of order 1/N, the remainder), variances of the prior.  Exact for a linear activation.

    Raises
    ------
    NotGaussian
        If the prior of the hidden weights is not a fixed Gaussian of mean zero.
    RuleError
        If the features do not enter linearly, through one pre-activation, times a field of the site on whose sign
        nothing else depends; or if an observable needs more of the weights than the features.
    """
    if weights not in action.fields:
        raise BadInput("field", weights, f"a field of the action ({', '.join(map(str, action.fields))})")
    used = names_in(action.expr, *action.fields, *action.definitions)
    for name in (features, latent, space, *(projections or {}).values()):
        if name in used:
            raise BadInput("names", name, "a name that is not in use")
    hidden = _hidden(action, weights)
    prior, coupled = _split(action, hidden)
    found = _coupling(coupled, hidden, action)
    rest = action.expr - prior
    site, readout = _site_field(rest - coupled, found, weights, action)
    variances, constant = _prior(prior, hidden)

    degree = homogeneity(found.activation) if len(hidden) == 1 else None
    scale = variances[0]**degree if degree is not None else sp.S.One
    size = sp.Symbol(f"N_{features}", positive=True)
    axis = Space(space, size)
    z = Entry(latent, "real", (site, axis))
    table, data = _replacements(found, z, axis, features, dict(projections or {}))

    def push(observable: sp.Expr) -> sp.Expr:
        pushed = tidy(observable.xreplace(table))
        left = [field for field in hidden if depends_on(pushed, field)]
        if left:
            raise RuleError(f"an observable that holds {left[0]} other than through the features of {found.activation} "
                            "is not known under the Gaussian law of the features")
        return pushed

    new_prior = sum_over(z**2 / (2 * scale) + sp.log(2 * sp.pi * scale) / 2, (axis, site))
    after = replace(action, expr=tidy(push(rest) + constant + new_prior),
                    fields=(*(f for f in action.fields if f not in hidden), z))
    dropped = _dropped(found, prior, hidden, site, readout)
    covariance = [[SIGMA_U**2, SIGMA_U * SIGMA_V * CORRELATION], [SIGMA_U * SIGMA_V * CORRELATION, SIGMA_V**2]]
    kernel = GaussianAverage(found.activation * found.activation.xreplace({U: V}), (U, V), covariance)
    exact = dropped == 0
    words = "" if exact else (", a site's law of which is cut after the second moment: exact as the second cumulant "
                              f"of the output at fixed norm of ${tex(readout)}$")
    return Step("gaussian_features", action, after, push, removed=hidden, added=(z,),
                details={"activation": found.activation, "kernel": kernel, "dropped": dropped, "latent": z,
                         "matrix": found.matrix, "preactivation": found.preactivation,
                         "features": data[0], "projections": sp.Dict(dict(zip(projections or {}, data[1:]))),
                         "variance": scale, "weight_variance": variances[0],
                         "shift_variance": sp.Add(*variances[1:]), "readout": readout, "site": site},
                description=f"The features are Gaussian with the second moment ${tex(data[0])} "
                            f"{tex(data[0])}^{{\\top}}$ (times the variance of the latents ${tex(z)}$){words}.",
                remainder=None if exact else 1 / site.size)


def _terms(expr: sp.Expr) -> tuple[sp.Expr, ...]:
    return sp.Add.make_args(distribute(expr))


def _shared_spaces(action: FieldAction, weights: Entry) -> frozenset[Space]:
    """The weights' spaces on which other fields live: the sites."""
    return frozenset(space for f in action.fields if f != weights for space in getattr(f, "spaces", ()))


def _leaves(term: sp.Expr, hidden: tuple[sp.Expr, ...],
            shared: frozenset[Space]) -> Iterator[tuple[sp.Expr, frozenset[Space], sp.Expr]]:
    """(coefficient, spaces summed over, factor that holds the hidden fields) of each term; pre-activations stay."""
    for addend in _terms(term):
        held = [f for f in sp.Mul.make_args(addend) if any(depends_on(f, h) for h in hidden)]
        outside = [f for f in sp.Mul.make_args(addend) if f not in held]
        sums = [f for f in outside if isinstance(f, SpaceSum) and f.space in shared]  # (Σj)(Σab) is ΣΣ jab
        coefficient = sp.Mul(*(f.body if f in sums else f for f in outside))
        over = frozenset(total.space for total in sums)
        if len(held) == 1 and isinstance(held[0], SpaceSum) and held[0].space in shared:
            for c, spaces, factor in _leaves(held[0].body, hidden, shared):
                yield coefficient * c, spaces | over | {held[0].space}, factor
        else:
            yield coefficient, over, sp.Mul(*held)


def _key(coefficient: sp.Expr, spaces: frozenset[Space]) -> tuple[sp.Expr, frozenset[Space]]:
    return coefficient.as_coeff_Mul()[1], spaces


def _hidden(action: FieldAction, weights: Entry) -> tuple[Entry, ...]:
    """The weights, and the biases that share their functions: fields on the site alone."""
    shared = _shared_spaces(action, weights)
    coupled = sp.Add(*(term for term in _terms(action.expr) if depends_on(term, weights)
                       and any(f != weights and depends_on(term, f) for f in action.fields)))
    if coupled == 0:
        raise RuleError(f"{weights} couples to no other field: there are no features")
    leaves = list(_leaves(coupled, (weights,), shared))
    inside = {f for _, _, factor in leaves for f in action.fields if f != weights and depends_on(factor, f)}
    keys = {_key(c, spaces) for c, spaces, _ in leaves}
    for f in action.fields:  # a bias of a linear network enters in a term of its own, like the weights
        terms = sp.Add(*(term for term in _terms(action.expr) if depends_on(term, f)
                         and any(g != f and depends_on(term, g) for g in action.fields)))
        if f != weights and terms != 0 and {_key(c, spaces) for c, spaces, _ in _leaves(terms, (f,), shared)} == keys:
            inside.add(f)
    if any(not isinstance(f, Entry) or not set(f.spaces) < set(weights.spaces) or f.domain != "real" for f in inside):
        names = ", ".join(sorted(map(str, inside)))
        raise NotGaussian(f"{weights} enters together with {names}: its prior is no fixed Gaussian, or its features "
                          "depend on other fields")
    return (weights, *sorted(inside, key=sp.default_sort_key))  # type: ignore[arg-type]


def _split(action: FieldAction, hidden: tuple[Entry, ...]) -> tuple[sp.Expr, sp.Expr]:
    """The terms with the hidden fields: those with no other field are their prior."""
    prior, coupled = sp.S.Zero, sp.S.Zero
    for term in _terms(action.expr):
        if any(depends_on(term, h) for h in hidden):
            if any(f not in hidden and depends_on(term, f) for f in action.fields):
                coupled += term
            else:
                prior += term
    return prior, coupled


def _coupling(coupled: sp.Expr, hidden: tuple[Entry, ...], action: FieldAction) -> _Coupling:
    weights, *shifts = hidden
    shared = _shared_spaces(action, weights)
    groups: dict[tuple[sp.Expr, frozenset[Space]], sp.Expr] = {}
    for coefficient, spaces, factor in _leaves(coupled, hidden, shared):
        key = _key(coefficient, spaces)
        groups[key] = groups.get(key, sp.S.Zero) + coefficient / key[0] * factor
    if loose := [key[0] for key, factor in groups.items() if factor.as_independent(weights)[1] == weights**2]:
        raise NotGaussian(f"the prior of {weights} is not a fixed Gaussian: its precision holds {loose[0]}")
    if len(groups) != 1:
        raise RuleError(f"the features of {weights} enter in {len(groups)} different ways, not one")
    (((coefficient, spaces), feature),) = groups.items()
    if max(sp.Add.make_args(feature), key=structure_key).could_extract_minus_sign():
        coefficient, feature = -coefficient, -feature
    nodes = {node for node in feature.atoms(SpaceSum) if depends_on(node, weights)}
    data = {e for node in nodes for e in entries(node) if e.is_data}
    if not nodes or any(space in shared for space in weights.spaces if space not in spaces):
        raise RuleError(f"{weights} does not enter linearly in its features: name the output and its conjugate first")
    if len(nodes) != 1 or len(data) != 1:
        raise RuleError(f"the features hold {len(nodes)} different pre-activations of {len(data)} data, not one")
    (node,), (matrix,) = nodes, data
    if node.body != matrix * weights:
        raise RuleError(f"the pre-activation {node} is not linear in {weights} with data as coefficients")
    activation = feature.xreplace({node: U - sp.Add(*shifts)})
    if activation.atoms(Entry):
        activation = sp.expand(activation)
    if activation.atoms(Entry):
        raise RuleError(f"{activation}, of u = {node + sp.Add(*shifts)}, is not a function of u alone")
    order = tuple(sorted(spaces, key=lambda space: space.name))
    return _Coupling(coefficient, order, feature, node + sp.Add(*shifts), matrix, activation)


def _site_field(rest: sp.Expr, found: _Coupling, weights: Entry, action: FieldAction) -> tuple[Space, Entry]:
    """The space of sites, and the field on it that multiplies the features; nothing else may depend on its sign."""
    sites = [space for space in found.spaces if space in weights.spaces]
    inside = [f for f in action.fields if isinstance(f, Entry) and depends_on(found.coefficient, f)
              and sites and set(f.spaces) == set(sites)]
    if len(sites) != 1 or len(inside) != 1 or depends_on(found.coefficient / inside[0], inside[0]):
        raise RuleError("the features do not enter linearly in one field of their site: their mean would have to be "
                        "kept (integrate the features first, the readout after)")
    (site,), (readout,) = sites, inside
    if _terms(tidy(rest.xreplace({readout: -readout}) - rest)) != (0,):
        raise RuleError(f"the action depends on the sign of {readout}: the mean of the features would have to be kept")
    return site, readout


def _prior(prior: sp.Expr, hidden: tuple[Entry, ...]) -> tuple[tuple[sp.Expr, ...], sp.Expr]:
    """Prior variances of the hidden fields, and -ln of the integral over e^{-prior}."""
    variances = []
    for field in hidden:
        law = gaussian(prior, field)
        if law.source != 0 or law.form.pairs or entries(law.form.diag):
            raise NotGaussian(f"the prior of {field} is not a fixed Gaussian of mean zero: its precision is "
                              f"{law.form.diag}")
        variances.append(1 / law.form.diag)
        prior = law.constant + (law.form.log_det() - field.size * sp.log(2 * sp.pi)) / 2
    return tuple(variances), prior


def homogeneity(activation: sp.Expr) -> sp.Expr | None:
    """p where φ(xh) = x^p φ(h) for every x > 0, None where there is none."""
    x = sp.Dummy("x", positive=True)
    form = sp.expand(elementary(activation))
    ratio = sp.cancel(sp.expand(elementary(activation.xreplace({U: x * U}))) / form)
    power = ratio.as_base_exp()[1] if ratio != 1 else sp.S.Zero
    return power if ratio == x**power and power.is_number else None


def _replacements(found: _Coupling, z: Entry, axis: Space, features: str,
                  projections: Mapping[Entry, str]) -> tuple[dict[sp.Expr, sp.Expr], list[Entry]]:
    """What turns the features at each matrix of inputs into F z."""
    table: dict[sp.Expr, sp.Expr] = {}
    data = []
    (columns,) = (total.space for total in found.preactivation.atoms(SpaceSum))
    for other, name in {found.matrix: features, **projections}.items():
        new = Entry(name, "data", (*(space for space in other.spaces if space != columns), axis))
        table |= replacement(found.feature.xreplace({found.matrix: other}), SpaceSum(new * z, axis))
        data.append(new)
    return table, data


def _dropped(found: _Coupling, prior: sp.Expr, hidden: tuple[Entry, ...], site: Space, readout: Entry) -> sp.Expr:
    """-Σ_i a_i⁴ (E[ψ⁴] - 3 E[ψ²]²)/24 over the prior of one site; zero for a linear activation."""
    if sp.diff(found.activation, U).is_number:
        return sp.S.Zero
    single = {f: Entry(f.name, f.domain, tuple(s for s in f.spaces if s != site)) for f in hidden}
    fields = sp.Tuple(*single.values())
    source = sum_over(found.coefficient / readout * found.feature, [s for s in found.spaces if s != site])
    source = source.xreplace(single)
    law = _one_site(prior, site).xreplace(single)
    second, fourth = (SiteAverage(source**n, law, fields) for n in (2, 4))
    return -SpaceSum(readout**4, site) * (fourth - 3 * second**2) / 24


def _one_site(prior: sp.Expr, site: Space) -> sp.Expr:
    """The prior of one site: the bodies of the sums over sites."""
    total = sp.S.Zero
    for term in _terms(prior):
        nodes = [f for f in sp.Mul.make_args(term) if isinstance(f, SpaceSum) and f.space == site]
        if nodes:
            total += term / nodes[0] * nodes[0].body
    return total


__all__ = ["CORRELATION", "SIGMA_U", "SIGMA_V", "SiteAverage", "U", "V", "gaussian_features", "homogeneity"]
