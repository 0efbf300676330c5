"""The report: one self-contained page that says what the study found, and figures that show it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fieldtheory import tasks
from fieldtheory.catalogue import theories
from fieldtheory.comparisons import make_study
from fieldtheory.errors import BadInput
from fieldtheory.export import plots, report, study
from fieldtheory.network import ARD, Network, Scaling

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use"}


def network(width: int = 30) -> Network:
    return Network(width=width, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0,
                   scaling=Scaling.mean_field())  # fmt: skip


@pytest.fixture(scope="module")
def found() -> study.Study:
    """Everything that the command line does, but for the highest loops."""
    most, study.MOST_LOOPS = study.MOST_LOOPS, 1
    try:
        sampling = dict(method="hmc", chains=4, draws=600, warmup=300, thin=1, step=None, seed=0)
        made, judged = make_study("linear", network(), tasks.ising(10, 12, test_samples=3), None, None, 0.01, True,
                                  lambda *progress: None, sampling)  # fmt: skip
    finally:
        study.MOST_LOOPS = most
    assert judged == "exact"
    return made


@pytest.fixture(scope="module")
def page(found: study.Study) -> str:
    return report.report_html(found)


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_approximations_are_those_the_theory_has(found: study.Study) -> None:
    assert list(found.found) == ["NNGP", "tree level", "one loop", "Q saddle", "Q saddle + 1 loop"]
    assert found.exact is not None and found.exact.status == "kept"
    errors = {result.label: result.error for result in found.results}
    assert errors["NNGP"] > 10 * errors["tree level"] > 10 * errors["Q saddle + 1 loop"]
    assert "NNGP" in found.labels("rejected") and "Q saddle + 1 loop" in found.labels("kept")


def test_what_is_far_above_what_can_be_seen_is_rejected_and_far_below_kept(found: study.Study) -> None:
    for result in found.results:
        if result.reach > 2:
            assert result.status == "rejected", result.label
        if result.reach < 0.2:
            assert result.status == "kept", result.label


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids)), "two SVG elements share an id"
    assert all(link.startswith("#") for link in parser.links)
    assert {link[1:] for link in parser.links} <= set(parser.ids)
    assert "<script" not in page and "<code>" not in page  # a formula that could not be set stands as code
    bare = re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE svg[^>]*>', "", page)
    assert "http:" not in bare and "https:" not in bare


def test_the_page_says_what_was_found(page: str, found: study.Study) -> None:
    text = re.sub(r"<[^>]+>", "", re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    for label in (*found.found, "exact", "sampled"):
        assert label in text
    for words in ("What was done", "power counting", "R-hat", "effective samples", "Kernel adaptation", "Kernel resc"):
        assert words in text
    assert page.count("<figure>") == 3
    # W(j) = -(N/2) ln(1 - (g/N) j.K.j), up to the sign of an action, is on the page as a formula with its source
    assert r"\ln{\left(1 - \frac{g}{N} j^{\top} K j \right)}" in page.replace(r"\dfrac", r"\frac").replace(
        r"\mathrm{T}", r"\top")  # fmt: skip


def test_the_same_study_gives_the_same_page(page: str, found: study.Study) -> None:
    assert report.report_html(found) == page


def test_files_are_written_whole_or_not_at_all(found: study.Study, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    written = report.write_report(tmp_path / "new" / "folder", found)
    assert set(written) == {"report.html", "derivation.tex", "derivation-adaptation.tex"}
    assert all(path.stat().st_size > 1000 for path in written.values())
    assert "rescaling" in written["derivation.tex"].read_text()
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="out"):
        report.write_report(tmp_path / "file", found)

    def interrupted(chosen: study.Study) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "report_html", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(tmp_path / "other", found)
    assert not (tmp_path / "other").exists()


def test_errors_against_width_fall_as_they_must(found: study.Study) -> None:
    assert found.errors is not None
    exponent = study.local_exponent(found.errors)
    fixed = {"regime": "P = 20"}
    for scaling in ("standard", "mean-field"):  # at fixed P the tree errs as 1/N at both scalings
        assert float(exponent.sel(scaling=scaling, approximation="tree level", **fixed)) == pytest.approx(1, abs=0.25)
        assert float(exponent.sel(scaling=scaling, approximation="one loop", **fixed)) == pytest.approx(2, abs=0.4)
    proportional = exponent.sel(regime="P = 0.6N", approximation="tree level")
    assert abs(float(proportional.sel(scaling="standard"))) < 0.25
    assert float(proportional.sel(scaling="mean-field")) > 0.5


def test_a_theory_is_retargeted_without_deriving_it_again() -> None:
    theory, data = theories["nngp"](network()), tasks.ising(6, 8)
    standard = network().replace(scaling=Scaling.standard())
    moved = theory.with_network(standard)
    assert np.allclose(moved.predict(data).mean_output, theories["nngp"](standard).predict(data).mean_output)
    assert theory.network == network()
    with pytest.raises(BadInput, match="activation"):
        theory.with_network(network().replace(activation="relu"))
    for change in ({"bias_variance": 0.5}, {"prior": ARD(2)}):  # another action, so another derivation
        with pytest.raises(BadInput, match=r"^network: got .* as derived"):
            theory.with_network(network().replace(**change))


FORMULAS = [r"\dfrac{N}{2} \ln{\left(1 - \dfrac{g}{N} j^{\mathrm{T}} K j \right)}", r"\hbar q^{2}"]


@pytest.mark.parametrize("latex", FORMULAS)
def test_a_formula_is_svg_on_the_baseline(latex: str) -> None:
    element = report.formula_svg(latex)
    assert ET.fromstring(element).tag.endswith("svg") and "vertical-align" in element
    assert latex.replace('"', "") in element


def test_a_formula_that_cannot_be_set_is_shown_as_its_source() -> None:
    with pytest.raises(BadInput, match="latex"):
        report.formula_svg(r"\begin{array}{c} x \end{array}")
    assert "<code>" in report.formula_html([r"\begin{array}{c} x \end{array}"])


def test_roots_are_drawn_by_branch_with_their_stability() -> None:
    chi = np.geomspace(1, 50, 6)
    absent = np.array([np.nan, np.nan, 1.0, 1.0, 1.0, 1.0])
    branches = xr.Dataset(
        {"Q": (("chi", "branch"), np.stack([0.9 / chi, 0.5 / chi * absent, 0.2 / chi * absent], axis=1)),
         "stability": (("chi", "branch"), np.stack([np.ones(6), -absent, absent], axis=1))},
        coords={"chi": chi}, attrs={"order_parameter": "Q"})  # fmt: skip
    shown = study.normalised_branches(branches)
    assert set(np.unique(shown.stability)) == {"", "stable", "unstable"}
    figure = plots.roots_against_chi({"Q saddle": shown}, exact=(chi, 0.9 / chi), readout_variance=1.0)
    (ax,) = figure.axes
    dashed = [line for line in ax.lines if line.is_dashed()]
    assert len(dashed) == 1 and np.nanmax(dashed[0].get_ydata()) == pytest.approx(0.5)
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "unstable"


def test_figures_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(BadInput, match="predictions"):
        plots.prediction_against_sample({})


def test_an_average_over_several_lines_is_set(found: study.Study) -> None:
    shown = report.formula_html([r"m & = \biggl\langle \frac{x}{y}", r"& + z \biggr\rangle, \biggl(a \biggr)"])
    assert "<code>" not in shown and shown.count("<svg") == 3


def test_a_prior_that_is_drawn_is_not_said_to_be_fixed(found: study.Study) -> None:
    """The baseline is for a fixed prior: with precisions that are drawn it is left out, and the page says so."""
    from dataclasses import replace

    from fieldtheory.network import ARD, Network

    net = Network("relu", 8, 1.0, 1.0, 0.25, prior=ARD(4.0), bias_variance=0.5)
    said: list[str] = []
    plain = net.replace(bias_variance=0.0)
    assert list(study.approximations("mean-field-ard", plain, note=said.append)) == ["mean-field-ard"]
    assert len(said) == 1 and said[0].startswith("NNGP left out: prior")
    written = report._setting(replace(found, network=net))
    fixed = report._setting(replace(found, network=net.replace(prior="gaussian", bias_variance=0.0)))
    assert "drawn too" in written and "drawn too" not in fixed
    assert report.inline(r"w_{ij} \sim \mathcal{N}(0, \sigma_w^2/D)") in fixed
