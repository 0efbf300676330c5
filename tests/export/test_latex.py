"""Derivations as LaTeX documents."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.export.latex import (
    Equation,
    Section,
    Table,
    derivation_document,
    document,
    escape,
    prose,
    write_derivation,
)
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.printing import latex

N, g, s, Q, u, q = sp.symbols("N g s Q u q", positive=True)
sigma, s0, gamma, delta = sp.symbols("sigma_a s_0 gamma delta", positive=True)
mode, site = Space("mode", sp.Symbol("P")), Space("site", N)
inputs, test = Space("input", sp.Symbol("D")), Space("test", sp.Symbol("P_test"))
sample = Space("sample", sp.Symbol("P"))
lam, y = Entry("lam", "spectrum", [mode]), Entry("y", "data", [mode])
T, ftilde = Entry("T", "data", [test, mode]), Entry("ftilde", "imaginary", [mode])
a, w, f = Entry("a", "real", [site]), Entry("w", "real", [site, inputs]), Entry("f", "real", [sample])
target = Entry("y", "data", [sample])
X = Entry("X", "data", [sample, inputs])

TRACE = SpaceSum(lam / (Q * lam + s), mode)
FORM = SpaceSum(y**2 * lam / (Q * lam + s) ** 2, mode)
MICROSCOPIC = (N / (2 * g) * SpaceSum(a**2, site)
               + SpaceSum((target - SpaceSum(a * SpaceSum(X * w, inputs), site)) ** 2, sample) / (2 * s))
CONJUGATE = (N / 2 * sp.log(1 + g / N * SpaceSum(lam * ftilde**2, mode)) + s / 2 * SpaceSum(ftilde**2, mode)
             - sp.I * SpaceSum(ftilde * y, mode))
RESCALED = (-N * sp.log(Q) / 2 + N * Q / (2 * g) + SpaceSum(sp.log(Q * lam + s), mode) / 2
            + SpaceSum(y**2 / (Q * lam + s), mode) / 2)
LONG = sp.diff(RESCALED.subs(Q, sp.exp(u)), u, 6)


def _action(expr: sp.Expr, *fields: sp.Basic) -> SimpleNamespace:
    return SimpleNamespace(expr=expr, fields=fields)


def _step(rule: str, before: object, after: object, **given: object) -> SimpleNamespace:
    text = f"the rule $R$ with 100 % {rule}"
    usual = {"description": text, "exact": True, "remainder": None, "definitions": {}}
    return SimpleNamespace(rule=rule, before=before, after=after, **(usual | given))


@pytest.fixture
def derivation() -> SimpleNamespace:
    scaled = sigma**2 * N ** (1 - gamma)
    actions = [_action(MICROSCOPIC, a, w), _action(CONJUGATE, ftilde), _action(RESCALED, Q), _action(LONG, u),
               _action(sp.log(N) / 2)]
    return SimpleNamespace(
        title="The linear network & its $N\\to\\infty$ limit_",
        network_description="The network is $f(x)=\\sum_i a_i\\,w_i\\cdot x$ — with Gaussian priors σ",
        steps=[
            _step("integrate_out", *actions[:2], definitions={g: scaled, s: s0 * N**-delta}),
            _step("introduce", *actions[1:3], definitions={g: scaled}),
            _step("expand", actions[2], actions[3], exact=False, remainder=1 / N**2),
            _step("evaluate", actions[3], actions[4], exact=False, remainder="$O(1/N)$"),
            _step("look", actions[4], None, exact=False, definitions={q: TRACE * FORM}),
        ],
        equations={"saddle_of_Q": sp.Eq(1 - g / Q - (g / N) * (FORM - TRACE), 0)},
        observables={"output": SpaceSum(a * SpaceSum(X * w, inputs), site), "readout_norm": SpaceSum(a**2, site)},
        abbreviations={sp.Symbol("G"): 1 / (N + FORM), sp.Symbol("S3"): LONG, sp.Symbol("c_2"): sp.Symbol("G") / 2},
        results={"mean_output": Q * lam * y / (Q * lam + s), "readout_norm": Q + Q * sp.Symbol("S3")**2,
                     "test_output": SpaceSum(T * y / (Q * lam + s), mode),
                     "log_evidence": -RESCALED, "curvature": LONG},
        notes=["Here λ ≥ 0.", "At most 5% & no more."],
        power_counting=SimpleNamespace(
            table=lambda: [
                ["contribution", "exponent", "a rather long heading for a column", "another", "the last"],
                [TRACE, 1 - gamma + delta, "$N^1$, leading", "0", "a long remark upon what is found here"],
            ],
            assumptions=["eigenvalues and targets are Θ(1)"]),
    )


@pytest.mark.parametrize(("text", "tex"), [
    ("50% of a_b & {c} #1 $x$ ~^\\", r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{}\textasciicircum{}"
                                     r"\textbackslash{}"),
    ("λ ≥ 0 → ∞", r"$\lambda$ $\geq$ 0 $\to$ $\infty$"), ("Göring", "Göring"), ("日", r"\texttt{U+65E5}"),
    ("a\x00b", "ab"),
])
def test_escape(text: str, tex: str) -> None:
    assert escape(text) == tex


def test_unicode_in_prose_and_in_its_math() -> None:
    assert prose("ħ γ² ∝ √χ – ⟨f⟩ ≈ ∞") == (r"$\hbar$ $\gamma$$^2$ $\propto$ $\surd$$\chi$ -- $\langle$f$\rangle$ "
                                          r"$\approx$ $\infty$")
    assert prose("$σ_a² ≤ ħ$") == r"${\sigma}_a^2 {\leq} {\hbar}$"


def test_prose_keeps_math_and_lone_dollars() -> None:
    assert prose("with $Q_i^2$ at 5%") == r"with $Q_i^2$ at 5\%"
    assert prose("for 5$ only_") == r"for 5\$ only\_"


def test_a_derivation_tells_everything(derivation: SimpleNamespace) -> None:
    text = derivation_document(derivation)
    for part in (r"\title{The linear network \& its $N\to\infty$ limit\_}", r"S\left[a, w\right] = ",
                 r"S\left[\tilde{f}\right] = ", r"The derivation takes 5 steps, of which 2 are exact.",
                 r"\paragraph{Step 1: integrate out.} The rule $R$ with 100 \% integrate\_out. The action",
                 r"with $g = N^{1 - \gamma} \sigma_{a}^{2}$ and $s = N^{- \delta} s_{0}$.",
                 r"f_{\mu} &= \sum_{i=1}^{N} a_{i}", r"Q &= \sum_{i=1}^{N} a_{i}^{2}",
                 r"G^{-1} = N + y^{\top} K", r"S^{(3)} &= ", r"\left(S^{(3)}\right)^{2}", r"$c_{2} = \frac{G}{2}$",
                 r"with remainder $O(N^{-2})$.", r"with remainder $O(1/N)$.", "whose remainder is not known.",
                 r"No field remains", r"y^{\top} K \left(Q K + s\right)^{-2} y",
                 r"\langle f\rangle = Q K \left(Q K + s\right)^{-1} y.", r"$\delta - \gamma + 1$",
                 r"\item eigenvalues and targets are $\Theta$(1)", r"\item At most 5\% \& no more."):
        assert part in text, part
    assert text.count(r"g = N^{1 - \gamma}") == 1  # a definition is given once
    assert text == derivation_document(derivation)


def test_a_closing_step_does_not_repeat_the_action(derivation: SimpleNamespace) -> None:
    last = derivation.steps[2].after
    derivation.steps = [*derivation.steps[:3], _step("close", last, last, exact=False, remainder=sp.Symbol("hbar")**2)]
    text = derivation_document(derivation)
    assert r"with remainder $O(\hbar^{2})$." in text
    closing = text.split("Step 4: close")[1].split(r"\section")[0]
    assert "begin" not in closing


def test_a_definition_stands_in_for_its_value(derivation: SimpleNamespace) -> None:
    derivation.equations["m"] = sp.Eq(sp.Symbol("m"), FORM)
    derivation.results, derivation.abbreviations = {"kernel": 2 * FORM * g, "other": 3 * FORM}, {}
    text = derivation_document(derivation).split(r"\section{Predictions}")[1]
    assert "y^{" not in text and "Kernel is" in text and "3 m" in text


def test_one_line_is_never_aligned() -> None:
    wide = sp.Eq(sp.Symbol("q"), sp.Mul(*sp.symbols("a_:60")))
    for equation in (Equation(wide), Equation(wide.rhs, left="q"), Equation(sp.Eq(wide.rhs, 0))):
        text = document("t", [Section("s", [equation])])
        assert r"\begin{equation}" in text and "&" not in text and "footnotesize" in text


def test_every_environment_is_closed(derivation: SimpleNamespace) -> None:
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", derivation_document(derivation)):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack


def test_what_is_absent_leaves_no_section(derivation: SimpleNamespace) -> None:
    derivation.equations, derivation.observables, derivation.notes, derivation.steps = {}, {}, [], []
    del derivation.results, derivation.abbreviations
    del derivation.power_counting
    assert derivation_document(derivation).count(r"\section") == 1


def test_bad_blocks() -> None:
    with pytest.raises(BadInput, match="rows"):
        document("t", [Section("s", [Table([["a", "b"], ["c"]])])])
    with pytest.raises(BadInput, match="blocks"):
        document("t", [Section("s", [3])])  # type: ignore[list-item]


def test_a_derivation_is_written_whole(derivation: SimpleNamespace, tmp_path: Path) -> None:
    path = write_derivation(derivation, tmp_path / "derivation.tex")
    assert path.read_text(encoding="utf-8") == derivation_document(derivation)


# ------------------------------------------------------------------------------------------ pdflatex
def _overfull(pdf: Path) -> list[float]:
    log = pdf.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    return [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]


@pytest.mark.latex
def test_a_derivation_compiles_within_the_margins(
    derivation: SimpleNamespace, compile_latex: Callable[[str], Path]
) -> None:
    assert all(points < 2 for points in _overfull(compile_latex(derivation_document(derivation))))


@pytest.mark.latex
@pytest.mark.slow
@pytest.mark.parametrize(("view", "loops"), [("rescaling", 1), ("adaptation", 1), (None, 0)])
def test_the_theories_of_the_linear_network_compile_within_the_margins(
    view: str | None, loops: int, compile_latex: Callable[[str], Path]
) -> None:
    net = ft.Network(scaling=ft.Scaling())
    theory = ft.theories["linear"](net, view=view, loops=loops) if view else ft.theories["nngp"](net)
    pdf = compile_latex(derivation_document(theory.derivation))
    assert all(points < 2 for points in _overfull(pdf))
    pages = re.search(r"\((\d+) pages", pdf.with_suffix(".log").read_text(encoding="utf-8", errors="replace"))
    assert pages is not None and int(pages[1]) <= 6


@pytest.mark.latex
def test_odd_names_and_prose_compile(compile_latex: Callable[[str], Path]) -> None:
    names = ["50%", "a#b", "x^2", "σ_a", "q'", "my name", "x~", r"\mathcal{Z}", "f_tilde", "A&B", "_"]
    total = sp.Add(*(Entry(name, "real", [site]) ** 2 * sp.Symbol(name) for name in names))
    text = "".join(map(chr, range(32, 127))).replace("$", "") + "é ü λ Ω ⟨f⟩ ≤ ½ σ² Kᵀ 日 – “x” $5"
    compile_latex(document(text, [Section(text + "$x_i^2$", [text, (text, text), Equation(total)])]))


@pytest.mark.latex
@pytest.mark.parametrize("style", ["modes", "traces"])
def test_the_estimated_width_is_that_of_tex(style: str, compile_latex: Callable[[str], Path]) -> None:
    shown = (MICROSCOPIC, CONJUGATE, RESCALED, FORM * g / N, TRACE**2, LONG)
    formulas = [latex(expr, style=style) for expr in shown]
    boxes = "\n".join(rf"\setbox0\hbox{{$\displaystyle {f}$}}\typeout{{WIDTH \the\wd0}}" for f in formulas)
    head = "\\documentclass[11pt]{article}\\usepackage{amsmath,amssymb}\\begin{document}\n"
    pdf = compile_latex(f"{head}{boxes}\nx\\end{{document}}\n")
    widths = re.findall(r"WIDTH ([\d.]+)pt", pdf.with_suffix(".log").read_text())
    ratios = [float(points) / (tex_width(tex) * 5.475) for points, tex in zip(widths, formulas, strict=True)]
    assert len(ratios) == len(formulas)
    assert all(0.85 < ratio < 1.1 for ratio in ratios), ratios
