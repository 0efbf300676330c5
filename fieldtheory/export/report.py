"""A study as one self-contained page and as LaTeX: `report.html` and `derivation.tex`.

The page needs no network and no script: figures and formulas are SVG inside it, formulas set by Matplotlib's
mathtext from the LaTeX of the printer. Nothing is computed here.
"""

from __future__ import annotations

import html
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.export import plots
from fieldtheory.export.study import BASELINE, Result, Study, representatives
from fieldtheory.files import write_atomically
from fieldtheory.symbolic.fields import depends_on
from fieldtheory.symbolic.printing import FieldPrinter
from fieldtheory.theory import Theory
from fieldtheory.verdict import VARIANCE, WORDS, Sampled

LINE = 92  # characters of a formula's line
FIGURE_PANELS = 5

CSS = """
:root { --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --kept: #00704f; --rejected: #b23c00; --panel: #f6f8fa; }
* { box-sizing: border-box; }
body { color: var(--ink); background: #fff; font: 16px/1.55 "Source Serif 4", "Palatino Linotype", Palatino,
  "URW Palladio L", Georgia, serif; max-width: 68rem; margin: 2.5rem auto 4rem; padding: 0 1.25rem; }
h1, h2, h3, table, figcaption, .meta, .badge { font-family: system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans",
  sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .5rem 0; max-width: 50rem; }
.meta { color: var(--soft); font-size: .88rem; margin: 0 0 1rem; }
.verdict { background: var(--panel); border-left: 4px solid #0072b2; padding: .8rem 1.1rem; margin: 1.2rem 0; }
.verdict p { margin: .25rem 0; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
tr.rule td { border-top: 1.5px solid var(--ink); }
.badge { font-weight: 600; }
.kept { color: var(--kept); } .rejected { color: var(--rejected); } .undecided, .no-prediction { color: var(--soft); }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .84rem; max-width: 50rem; margin-top: .3rem; }
.formula { display: grid; grid-template-columns: max-content max-content; align-items: baseline; overflow-x: auto;
  margin: .7rem 0 .9rem 1.5rem; row-gap: .55rem; }
.formula > :nth-child(odd) { justify-self: end; padding-right: .35em; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .92rem; margin: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } h2 { break-after: avoid; }
  figure, table { break-inside: avoid; } }
"""


# ----------------------------------------------------------------------------------------------------- formulas


def formula_svg(latex: str, size: float = 13.0) -> str:
    """LaTeX (no dollars, no alignment) as an SVG element whose baseline is that of the line it stands in.

    Errors: BadInput for what Matplotlib's mathtext cannot set.
    """
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    stream = io.BytesIO()
    try:
        with mpl.rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path", "svg.hashsalt": "fieldtheory",
                             "savefig.transparent": True}):
            depth = math_to_image(f"${latex}$", stream, prop=FontProperties(size=size), dpi=72, format="svg")
    except ValueError as error:
        raise BadInput("latex", latex, f"what mathtext can set ({str(error).splitlines()[-1]})") from None
    attributes = f'role="img" aria-label="{html.escape(latex, quote=True)}" style="vertical-align: {-depth:.2f}pt"'
    return plots.element_of(stream.getvalue().decode()).replace("<svg", f"<svg {attributes}", 1)


def inline(latex: str) -> str:
    return formula_svg(latex, size=12.0)


# What mathtext sets otherwise than LaTeX does: fractions small even on display, and space around a transpose.
MATHTEXT = {r"\frac": r"\dfrac", r"\top": r"\mathrm{T}", r"\biggl": "", r"\biggr": ""}  # sizes it knows not


def for_mathtext(latex: str) -> str:
    """LaTeX on display, in the commands that mathtext sets as LaTeX would."""
    return re.sub(r"\\[A-Za-z]+", lambda command: MATHTEXT.get(command[0], command[0]), latex)


def formula_html(lines: Iterable[str]) -> str:
    """Lines of LaTeX, each with an `&` where they are aligned, as a grid; its source where it cannot be set."""
    cells = []
    for line in lines:
        left, found, right = line.partition("&")
        for cell in (left, right) if found else ("", left):
            try:
                cells.append(f"<span>{formula_svg(for_mathtext(cell)) if cell.strip() else ''}</span>")
            except BadInput:
                cells.append(f"<code>{html.escape(cell)}</code>")
    return f'<div class="formula">{"".join(cells)}</div>'


def _equation(expr: Any, left: str | None = None, style: str = "traces") -> str:
    return formula_html(FieldPrinter(style=style).lines(expr, LINE, left))


def _without_constants(action: Any) -> sp.Expr:
    """The terms of an action that depend on its fields."""
    kept = [term for term in sp.Add.make_args(action.expr) if any(depends_on(term, f) for f in action.fields)]
    return sp.Add(*kept)


def _view_section(theory: Theory, others: Sequence[tuple[str, Theory]]) -> str:
    steps = theory.action.steps
    shown = theory.action.value if hasattr(theory.action, "value") else theory.action
    # A logarithm taken for the sake of the expansion hides the variable that people think in.
    if steps and steps[-1].rule == "change_variable":
        shown = steps[-1].before
    printer = FieldPrinter(style="traces")
    names = ", ".join(printer.bare(f) if hasattr(f, "spaces") else printer.doprint(f) for f in shown.fields)
    parts = [f"<h3>{html.escape(theory.title)}</h3>"]
    if shown.fields:
        parts += ["<p>Reduced action, up to a constant:</p>",
                  _equation(_without_constants(shown), rf"S\left[{names}\right]")]
    if theory.equations:
        parts += ["<p>Equations of state without loops:</p>", *map(_equation, theory.equations.values())]
    for label, other in others:
        same = [printer.doprint(e) for e in other.equations.values()] == \
            [printer.doprint(e) for e in theory.equations.values()]
        if other.equations and not same:
            parts += [f"<details><summary>Equations of state, {html.escape(label)} "
                      "(ħ = 1 counts loops)</summary>", *map(_equation, other.equations.values()), "</details>"]
    return "".join(parts)


# ------------------------------------------------------------------------------------------------------- tables


def number(value: Any, digits: int = 4) -> str:
    """A number as it stands in tables, – where there is none."""
    value = float(value)
    return f"{value:.{digits}g}" if math.isfinite(value) else "–"


def order_of_magnitude(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "–"


def comparison_rows(study: Study) -> list[list[str]]:
    """Header, a row per approximation, the oracle, the samples: what the terminal and the page both show."""
    names = (VARIANCE, "hidden_kernel_overlap", "readout_norm", "discrepancy_along_target")
    rows = [["", "verdict", "max |z|", "error of ⟨f⟩", "error / visible", "variance along ⟨f⟩", "kernel overlap", "⟨Q⟩",
             "discrepancy"]]
    for result in study:
        found, exact = result.prediction, result.label == "exact"
        worst = result.verdict.worst if result.verdict is not None else None
        rows.append([
            result.label, result.status, "–" if worst is None else f"{abs(worst.z):.1f}",
            "0" if exact else order_of_magnitude(result.error), "0" if exact else times(result.reach),
            *(number(found[name]) if found is not None and name in found else "–" for name in names),
        ])
    rows.append(["sampled", "", "", "", "", *sampled_cells(study.sampled, names)])
    return rows


def sampled_cells(sampled: Sampled, names: Sequence[str]) -> list[str]:
    table = dict(sampled.statistics)
    if np.linalg.norm(sampled.mean_output) > 0:
        table |= sampled.along(sampled.mean_output)
    return [f"{number(table[name]['sampled'])} ± {float(table[name]['mcse']):.1g}" if name in table else "–"
            for name in names]


def _table(rows: Sequence[Sequence[str]], *, rule_before: int | None = None, words: Sequence[int] = ()) -> str:
    def cell(tag: str, text: str, column: int) -> str:
        kind = ' class="words"' if column in words else ""
        if tag == "td" and text in ("kept", "rejected", "undecided", "no prediction"):
            return f'<td{kind}><span class="badge {text.replace(" ", "-")}">{text}</span></td>'
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    head, *body = rows
    lines = ["<tr>" + "".join(cell("th", text, k) for k, text in enumerate(head)) + "</tr>"]
    for n, row in enumerate(body):
        rule = ' class="rule"' if n == rule_before else ""
        lines.append(f"<tr{rule}>" + "".join(cell("td", text, k) for k, text in enumerate(row)) + "</tr>")
    return f'<div class="scroll"><table><thead>{lines[0]}</thead><tbody>{"".join(lines[1:])}</tbody></table></div>'


def _exponent(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def error_rows(errors: Any) -> list[list[str]]:
    """The error table as text: scaling, samples, width, then one column per approximation, exponents last."""
    from fieldtheory.export.study import local_exponent

    names = [str(name) for name in errors.approximation.values]
    rows, slopes = [["scaling", "samples", "N", *names]], local_exponent(errors)
    for scaling in errors.scaling.values:
        for regime in errors.regime.values:
            point = {"scaling": scaling, "regime": regime}
            for N in errors.width.values:
                values = errors["error"].sel(point | {"width": N})
                rows.append([str(scaling), str(regime), str(int(N)),
                             *(order_of_magnitude(float(values.sel(approximation=name))) for name in names)])
            if errors.sizes["width"] > 1:
                found = slopes.sel(point)
                rows.append([str(scaling), str(regime), "exponent",
                             *(_exponent(float(found.sel(approximation=name))) for name in names)])
    return rows


# ---------------------------------------------------------------------------------------------------- sentences


def listing(items: Sequence[str]) -> str:
    """a, b and c."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def findings(study: Study) -> list[str]:
    """What the samples say, in sentences for the terminal and the page."""
    net = study.network
    said = []
    where = f"At N = {net.width}, {net.scaling.name} scaling, P = {study.data.samples}"
    rejected, kept, undecided = (study.labels(status) for status in ("rejected", "kept", "undecided"))
    if study.exact is not None and study.exact.verdict is not None:
        said.append(f"The samples {_does(study.exact.status)} the exact oracle: {study.exact.verdict.reason}.")
    parts = [f"{where}, the samples reject {listing(rejected)}" if rejected else f"{where}, the samples reject nothing",
             f"keep {listing(kept)}" if kept else ""]
    said.append(" and ".join(part for part in parts if part) + ".")
    if undecided:
        said.append(f"They cannot tell about {listing(undecided)}.")
    missing = [result for result in study.results if result.prediction is None]
    said += [f"{result.label} makes no prediction: {result.note}." for result in missing]
    return said


def _does(status: str) -> str:
    return {"kept": "keep", "rejected": "REJECT", "undecided": "cannot judge"}.get(status, status)


def expectations(study: Study) -> list[str]:
    """Why that is to be expected: errors against what could be seen, and the engine's own counting of powers."""
    said = []
    measured = {result.label: result for result in study.results if math.isfinite(result.reach)}
    above = [f"{name} ({times(r.reach)})" for name, r in measured.items() if r.reach >= 1]
    below = [f"{name} ({times(r.reach)})" for name, r in measured.items() if r.reach < 1]
    if above:
        said.append("Against the exact oracle, the largest error, in units of the smallest that these samples "
                    f"see with 80 % power, is above one for {listing(above)}"
                    + (f", and below one for {listing(below)}." if below else "."))
    elif below:
        said.append(f"Against the exact oracle, every error is below what these samples can see: {listing(below)}.")
    by_label: dict[str, list[Any]] = {}
    for counted in study.counted:
        by_label.setdefault(counted.label, []).append(counted)
    for label, rows in by_label.items():
        orders = [f"of relative order {_power(row.exponent)} at {row.load} ({row.correction})" for row in rows]
        suffices = [row.load for row in rows if row.suffices]
        verdict = ("the saddle suffices as N grows" if len(suffices) == len(rows) else
                   f"the saddle suffices at {listing(suffices)} only" if suffices else "the saddle does not suffice")
        said.append(f"The engine's power counting at {study.network.scaling.name} scaling: what {label} leaves out is "
                    f"{listing(orders)}, so {verdict}.")
    return said


def times(value: float) -> str:
    """A ratio, as it is read: 240, 18, 1.9, 0.28, < 0.01."""
    if not math.isfinite(value):
        return "–"
    return "< 0.01" if value < 0.01 else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _power(exponent: Any) -> str:
    return "1" if exponent == 0 else f"N^({exponent})" if "/" in str(exponent) else f"N^{exponent}"


def _sentence(text: str) -> str:
    """A sentence as a paragraph, its powers of N raised."""
    raised = re.sub(r"N\^\(?([-/0-9]+)\)?", r"N<sup>\1</sup>", html.escape(text))
    return f"<p>{raised}</p>"


def _shown(study: Study) -> dict[str, Any]:
    """The verdicts that the figure compares: the first few approximations, and the oracle."""
    results: list[Result] = [result for result in study.results if result.verdict is not None]
    room = FIGURE_PANELS - (study.exact is not None)
    chosen = results[:room] + ([study.exact] if study.exact is not None else [])
    return {result.label: result.verdict for result in chosen}


# --------------------------------------------------------------------------------------------------------- page


def report_html(study: Study) -> str:
    """The whole page."""
    net, data = study.network, study.data
    title = f"{study.name} on {data.name}: theory against samples"
    parts = [f"<h1>{html.escape(title)}</h1>",
             f'<p class="meta">N = {net.width}, D = {data.input_dim}, P = {data.samples}, '
             f"{net.scaling.name} scaling, activation {html.escape(str(net.activation))}</p>",
             '<div class="verdict">', *map(_sentence, findings(study)), "</div>",
             _setting(study), _comparison(study), _figures(study), _formulas(study), _sampler(study), _verified(study)]
    copies: Counter[str] = Counter()

    def unique(found: re.Match[str]) -> str:  # a formula that stands on the page twice
        copies[found[0]] += 1
        return found[0] if copies[found[0]] == 1 else plots.scope_ids(found[0], copies[found[0]])

    body = re.sub(r"<svg.*?</svg>", unique, "\n".join(part for part in parts if part), flags=re.DOTALL)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body>\n"
            f"{body}\n</body></html>\n")


def _setting(study: Study) -> str:
    net, data, run = study.network, study.data, study.sampling
    g, s = net.effective_readout_variance(), net.effective_noise_variance()
    bias = " + b_i" if net.has_bias else ""
    network = inline(rf"f(x) = \Sigma_i\, a_i\, \phi(w_i \cdot x{bias})")
    readout, hidden = inline(r"a_i \sim \mathcal{N}(0, g/N)"), inline(r"w_{ij} \sim \mathcal{N}(0, \sigma_w^2/D)")
    precision = None if data.input_dim is None else net.precision_prior(data.input_dim)
    if precision is not None:
        law = rf"\lambda_j \sim \mathrm{{Gamma}}(\alpha_0 = {precision[0]:g},\ \beta_0 = {precision[1]:.4g})"
        hidden = (inline(r"w_{ij} \sim \mathcal{N}(0, 1/\lambda_j)")
                  + f", where the precision of an input is drawn too, {inline(law)},")
    if bias:
        hidden += " and " + inline(rf"b_i \sim \mathcal{{N}}(0, {net.bias_variance:g})")
    effective = inline(rf"g = \sigma_a^2 N^{{1-\gamma}} = {g:.4g}"), inline(rf"s = s_0 N^{{-\delta}} = {s:.4g}")
    exponents = inline(rf"\gamma = {net.scaling.readout},\ \delta = {net.scaling.noise}")
    variances = inline(rf"\sigma_a^2 = {net.readout_variance:g},\ \sigma_w^2 = {net.weight_variance:g},"
                       rf"\ s_0 = {net.noise_variance:g}")
    facts = {
        "data": f"{html.escape(data.name)}, P = {data.samples} training and {data.test_samples} test inputs in "
                f"D = {data.input_dim} dimensions",
        "scaling": f"{html.escape(net.scaling.name)}: {effective[0]}, {effective[1]} with {exponents}",
        "variances": variances,
        "samples": f"{run['chains']} chains of {run['draws']} draws by {_method(study)}; at least "
                   f"{run['smallest_ess']:.0f} effective samples per observable, R-hat at most "
                   f"{run['largest_rhat']:.4f}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items())
    return (f"<h2>What was done</h2><p>A two-layer network {network} with Gaussian priors, {readout} and {hidden}, and "
            f"Gaussian noise of variance {inline('s')} on every sample. The theories below were derived from its "
            "action and evaluated on the data; chains that know the network and no theory drew from the posterior over "
            "its weights; and the exact oracle, where there is one, is a quadrature that knows neither."
            f"</p><dl>{listed}</dl>")


def _method(study: Study) -> str:
    return html.escape(str(study.sampling.get("method", "?")).upper())


def _comparison(study: Study) -> str:
    rows = comparison_rows(study)
    first = study.results[0].verdict if study.results else None
    count = study.exact.verdict if study.exact is not None else first
    compared = count.table.sizes["row"] if count is not None else 0
    why = "".join(map(_sentence, expectations(study)))
    details = "".join(
        f"<details><summary>{html.escape(result.label)}: every observable (the worst entry of each vector)</summary>"
        f'<div class="scroll">{result.verdict._repr_html_()}</div></details>'
        for result in study if result.verdict is not None)
    return f"""<h2>Predictions against samples</h2>
{_table(rows, rule_before=len(study.results))}
<p>“Error of ⟨f⟩” is relative, against the exact oracle, over the training inputs. “Error / visible” is the largest
error in any observable in units of the smallest that these samples could have seen. The verdict corrects for {compared}
observables at once (Holm) at level {study.level:g}; Q is Σ<sub>i</sub> a<sub>i</sub>².</p>
<h3>Why that is to be expected</h3>{why}
<h3>Observable by observable</h3>{details}"""


def _figure(figure: Any, caption: str) -> str:
    return f"<figure>{plots.svg(figure)}<figcaption>{caption}</figcaption></figure>"


def _figures(study: Study) -> str:
    parts = ["<h2>Figures</h2>"]
    shown = _shown(study)
    if shown:
        parts.append(_figure(
            plots.prediction_against_sample(shown),
            "Mean outputs, predicted against sampled, and their difference in Monte-Carlo standard errors. The band is "
            f"what chance explains at level {study.level:g} over all observables at once."))
    if study.errors is not None:
        parts.append(_figure(
            plots.error_against_width(study.errors),
            "Relative error of ⟨f⟩ against the exact oracle on Ising-like data (D = 0.8N, labels the sign of a random "
            "direction), by order of the approximation. Double precision ends near 10⁻¹⁵."))
        parts.append("<details><summary>The same as a table, with the local exponent of 1/N between the two largest "
                     f"widths</summary>{_table(error_rows(study.errors), words=(1,))}</details>")
    if study.branches:
        count = max(found.sizes.get("branch", 0) for found in study.branches.values())
        many = "a single root along the whole path" if count == 1 else f"up to {count} branches"
        figure = plots.roots_against_chi(study.branches, exact=study.exact_roots,
                                         readout_variance=float(study.network.readout_variance or 1))
        parts.append(_figure(
            figure, f"Roots of the equation of state between the scalings, g = σ<sub>a</sub>²/χ and s = s₀/χ, on this "
            f"data: {many}. Stable roots are solid, unstable ones dashed."))
    return "\n".join(parts)


def _formulas(study: Study) -> str:
    by_view: dict[str, list[tuple[str, Theory]]] = {}
    for label, theory in study.found.items():
        if theory.name != BASELINE[0] or study.name == BASELINE[0]:
            by_view.setdefault(theory.view, []).append((label, theory))
    sections = []
    for members in by_view.values():
        lowest = min(members, key=lambda member: member[1].loops)
        others = [member for member in members if member[1].loops == 1 and member is not lowest]
        sections.append(_view_section(lowest[1], others))
    return ("<h2>Formulas</h2><p>K is the prior kernel of the inputs, (σ<sub>w</sub>²/D) XXᵀ, and a number added to a "
            "matrix stands for that multiple of the identity. The full derivation is in derivation.tex.</p>"
            + "\n".join(sections))


def _sampler(study: Study) -> str:
    run = study.sampling
    rows = [["observable", "smallest ESS", "largest R-hat", "largest MCSE"]]
    rows += [[WORDS.get(name, name), f"{x['ess']:.0f}", f"{x['rhat']:.4f}", f"{x['mcse']:.2g}"]
             for name, x in sorted(run["observables"].items(), key=lambda item: list(WORDS).index(item[0])
                                   if item[0] in WORDS else len(WORDS))]
    facts = {"method": _method(study), "chains": run["chains"], "draws per chain": run["draws"],
             "iterations per draw": run.get("thin"), "acceptance": _maybe(run, "acceptance_rate", ".2f"),
             "step": _maybe(run, "step_size", ".3g"), "gradients per iteration": _maybe(run, "n_steps", ".1f"),
             "diverging draws": run.get("diverging"), "seed": run.get("seed")}
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value is not None)
    return f"<h2>Sampler</h2><dl>{listed}</dl>{_table(rows)}"


def _maybe(values: Mapping[str, Any], key: str, spec: str) -> str | None:
    return format(values[key], spec) if key in values else None


def _verified(study: Study) -> str:
    if not study.verification:
        return ""
    rows = [["derivation", "checks", "failed", "largest error of an exact step", "seconds"]]
    for label, report in study.verification.items():
        exact = [row.error for row in report.rows if row.kind == "exact"]
        rows.append([label, str(len(report.rows)), str(len(report.failures)), f"{max(exact, default=0.0):.1e}",
                     f"{report.seconds:.1f}"])
    failed = [f"{html.escape(label)}, step {row.step} ({html.escape(row.rule)}), {html.escape(row.quantity)}: "
              f"{html.escape(row.message) or f'error {row.error:.1e}'}"
              for label, report in study.verification.items() for row in report.failures]
    trouble = f"<p>Not verified:</p><ul>{''.join(f'<li>{text}</li>' for text in failed)}</ul>" if failed else ""
    return ("<h2>Verification of the derivation</h2><p>Every exact step was checked by integrating numerically, at "
            "random small sizes, over just the fields that it removes; the expansion by its next coefficient.</p>"
            f"{_table(rows)}{trouble}")


def write_report(folder: str | os.PathLike[str], study: Study) -> dict[str, Path]:
    """Write `report.html` and `derivation.tex` into `folder`, each whole or not at all; the paths by name.

    `derivation.tex` is the view that was asked for, or the theory's first; each further view has a
    `derivation-<view>.tex` of its own.

    Errors: BadInput where `folder` is a file; those of the operating system otherwise.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput("out", str(folder), "a folder, new or existing")
    page = report_html(study)
    folder.mkdir(parents=True, exist_ok=True)
    written = {"report.html": write_atomically(folder / "report.html", page)}
    chosen = representatives(study.found)
    first = study.view if study.view in chosen else next(iter(chosen))
    for view, theory in chosen.items():
        name = "derivation.tex" if view == first else f"derivation-{'-'.join(view.split())}.tex"
        theory.derivation.to_latex(folder / name)
        written[name] = folder / name
    return written


__all__ = ["comparison_rows", "error_rows", "expectations", "findings", "formula_html", "formula_svg",
           "report_html", "write_report"]
