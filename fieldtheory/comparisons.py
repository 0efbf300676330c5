"""The commands that compare: one theory with chains, many over axes and widths.

As in `fieldtheory.cli`, whatever is heavy is imported inside a command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fieldtheory import console, terminal
from fieldtheory import options as option
from fieldtheory.console import DISAGREES
from fieldtheory.errors import BadInput

if TYPE_CHECKING:
    from fieldtheory.dataset import Dataset
    from fieldtheory.network import Network


def validate(
    theory: option.Theory, data: option.Data = "ising", out: option.Folder = None, width: option.Width = 100,
    samples: option.Samples = None, input_dim: option.Dim = None, test_samples: option.Test = None,
    classes: option.Classes = None, data_seed: option.DataSeed = 0, scaling: option.Scaling = "mean-field",
    readout_variance: option.Readout = 1.0, weight_variance: option.Weight = 1.0, noise_variance: option.Noise = 1.0,
    activation: option.Activation = "identity", bias_variance: option.Bias = 0.0, ard: option.Ard = None,
    view: option.View = None, loops: option.Loops = None,
    method: option.Method = "hmc", chains: option.Chains = 8, draws: option.Draws = 1000, warmup: option.Warmup = None,
    thin: option.Thin = 1, step: option.Step = None, seed: option.Seed = 0, level: option.Level = 0.01,
    as_json: option.Json = False,
) -> None:
    """Compare every approximation of a theory, and the exact oracle, with chains that know no theory.

    Exit status 1 if the samples do not keep what is judged: the approximation that --view or --loops names, or else
    the exact oracle (where there is none, the theory as it comes).

    Example: fieldtheory validate linear --data digits --out report
    """
    import time

    started = time.perf_counter()
    if not 0 < level < 1:
        raise BadInput("level", level, "a number between 0 and 1")
    if out is not None:
        console.check_folder(out)
    net = console.network(width, activation, scaling, readout_variance, weight_variance, noise_variance,
                          bias_variance=bias_variance, ard=ard)
    dataset = console.dataset(data, samples, test_samples, input_dim, classes, data_seed)
    with terminal.progress() as report:
        study, judged = make_study(theory, net, dataset, view, loops, level, out is not None, report, dict(
            method=method, chains=chains, draws=draws, warmup=warmup, thin=thin, step=step, seed=seed))
        written: Mapping[str, Path] = {}
        if out is not None:
            from fieldtheory.export.report import write_report

            report("writing the report")
            written = write_report(out, study)
    from fieldtheory.export import report as words

    status = next(result.status for result in study if result.label == judged)
    if as_json:
        terminal.print_json({
            "theory": theory, "judged": judged, "status": status, "level": level, "width": net.width,
            "samples": dataset.samples, "scaling": net.scaling.name, "sampling": study.sampling,
            "results": [_result_as_mapping(result) for result in study],
            "findings": words.findings(study), "expectations": words.expectations(study),
            "files": {name: str(path) for name, path in written.items()},
        })
    else:
        title = (f"{theory} on {dataset.name}: N = {net.width}, D = {dataset.input_dim}, P = {dataset.samples}, "
                 f"{net.scaling.name} scaling; at least {study.sampling['smallest_ess']:.0f} effective samples per "
                 "observable")
        terminal.show(words.comparison_rows(study), title, rule_after=len(study.results) - 1)
        for line in words.findings(study):
            print(line)
        for line in words.expectations(study):
            print(f"  {line}")
        for path in written.values():
            print(f"wrote {path}")
        print(f"judged: {judged}: {status} ({time.perf_counter() - started:.0f} s)")
    if status != "kept":
        raise typer.Exit(DISAGREES)


def make_study(name: str, net: Network, data: Dataset, view: str | None, loops: int | None, level: float, full: bool,
           report: Callable[..., None], sampling: dict[str, Any]) -> tuple[Any, str]:
    """Everything that is shown, and the label of what is judged."""
    from fieldtheory.export import study
    from fieldtheory.sampling import sample as run_chains
    from fieldtheory.verdict import Sampled

    report("deriving")
    chosen = console.theory(name, net, view=view, loops=loops)  # before the chains run: bad input is refused at once
    found = study.approximations(name, net, note=lambda text: print(text, file=sys.stderr))
    found.setdefault(study.label_of(chosen), chosen)
    drawn = run_chains(net, data, **sampling, progress=lambda done, total: report("sampling", done, total))
    report("effective samples and standard errors")
    sampled = Sampled(drawn)
    facts = study.diagnostics(drawn, sampled)
    report("compiling and predicting")
    results, truth = study.judge(found, net, data, sampled, level)
    explicit = view is not None or loops is not None
    judged = "exact" if truth is not None and not explicit else study.label_of(chosen)
    report("counting powers of N")
    counted = study.count_powers(found, net.scaling)
    extra: dict[str, Any] = {}
    if full:
        report("verifying the derivation")
        extra["verification"] = {f"{theory.title}, {label}": theory.derivation.verify()
                                 for label, theory in found.items() if theory in study.representatives(found).values()}
        if truth is not None:
            extra["errors"] = study.errors_against_width(
                found, widths=(50, 100, 200, 400),
                progress=lambda done, total: report("errors against the width", done, total))
        report("roots between the scalings")
        extra["branches"], extra["exact_roots"] = study.roots(found, data)
    return study.Study(name, net, data, level, found, results, truth, sampled, facts, counted, view=chosen.view,
                       **extra), judged


def _result_as_mapping(result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    verdict = result.verdict
    return {
        "label": result.label, "status": result.status, "note": result.note, "error": result.error,
        "error_over_visible": result.reach, "reason": verdict.reason if verdict is not None else "",
        "rows": [asdict(row) for row in verdict.summary()] if verdict is not None else [],
    }


def sweep(
    what: option.Swept = None, widths: option.Widths = None, seeds: option.Seeds = None,
    readout_variance: option.SweptReadout = None, weight_variance: option.SweptWeight = None,
    noise_variance: option.SweptNoise = None, out: option.SweptOut = None, jobs: option.Jobs = None,
    retry: option.Retry = False, example: option.Example = False, as_json: option.Json = False,
) -> None:
    """Compute what a TOML file asks for: test errors, order parameters and more, by theories and by chains, over axes
    such as the number of samples, the noise, the width and the seed of the data.

    To the folder --out (by default the file's name without .toml) go results.nc and the figures, and every point as
    soon as it is finished: however the run ends, the same command goes on. --example prints a file to begin with.

    With the name of a theory in place of a file: its approximations' errors in <f> against the exact oracle, at both
    scalings, for P = 20 and P = 0.6N. Data are Ising-like: inputs ±1 in D = 0.8N dimensions, labels the sign of a
    random direction. --out takes .nc or .csv.

    Example: fieldtheory sweep learning.toml --jobs 2

    Example: fieldtheory sweep linear --widths 100,400,1600 --out table.nc
    """
    if example:
        from fieldtheory.export.sweep import EXAMPLE

        print(EXAMPLE, end="")
        return
    if what is None:
        raise BadInput("THEORY|FILE.toml", "nothing", "a theory, or a .toml file (--example prints one)")
    table: dict[str, Any] = dict(widths=widths, seeds=seeds, readout_variance=readout_variance,
                                 weight_variance=weight_variance, noise_variance=noise_variance)
    if what.endswith(".toml") or Path(what).is_file():
        for name, given in table.items():
            if given is not None:
                raise BadInput(f"--{name.replace('_', '-')}", given, f"no such option beside {what}, which says it all")
        _sweep_of_file(Path(what), out, 1 if jobs is None else jobs, retry, as_json)
        return
    for flag, stray in (("--jobs", jobs), ("--retry", retry)):
        if stray:
            raise BadInput(flag, stray, "no such option beside a theory: it is for .toml files")
    _sweep_of_widths(what, out, as_json, **{name: given for name, given in table.items() if given is not None})


def _sweep_of_file(path: Path, out: Path | None, jobs: int, retry: bool, as_json: bool) -> None:
    from fieldtheory.export.sweep import Sweep, run_sweep
    from fieldtheory.export.sweep.figures import sweep_figures
    from fieldtheory.export.sweep.table import reservations, rows

    asked = Sweep.load(path)
    folder = path.with_suffix("") if out is None else out
    console.check_folder(folder)
    with terminal.progress() as report:
        report("deriving")

        def follow(state: Any) -> None:
            last = state.last and f"{state.last['approximation']}: {state.last['state']}"
            report("sweeping", state.done, state.total,
                   note=", ".join(filter(None, [terminal.duration(state.seconds_left), last])))

        table = run_sweep(asked, folder, jobs=jobs, retry=retry, progress=follow,
                          note=lambda text: print(text, file=sys.stderr))
        report("drawing")
        written = [folder / "results.nc"]
        console.write_netcdf(written[0], table)
        for name, figure in sweep_figures(table, asked.figures["quantities"]):
            for suffix in asked.figures["formats"]:
                written.append(folder / f"{name}.{suffix}")
                console.write_figure(written[-1], figure)
    for line in reservations(table):
        print(line, file=sys.stderr)
    for one in written:
        print(f"wrote {one}", file=sys.stderr)
    if as_json:
        flat = table.drop_dims("input", errors="ignore").to_dataframe().reset_index()
        terminal.print_json({"attributes": dict(table.attrs), "results": [
            {name: value for name, value in row.items() if value == value} for row in flat.to_dict(orient="records")]})
    else:
        lines = rows(table, asked.figures["quantities"])
        terminal.show(lines, f"{table.attrs['title']} (± over seeds; ?: with a reservation)")


def _sweep_of_widths(
    theory: str, out: Path | None, as_json: bool, *, widths: str = "100,400,1600", seeds: int = 1,
    readout_variance: float = 1.0, weight_variance: float = 1.0, noise_variance: float = 1.0,
) -> None:
    from fieldtheory.export import study
    from fieldtheory.export.report import error_rows

    console.check_out(out, (".nc", ".csv"))
    try:
        numbers = [int(part) for part in widths.split(",")]
    except ValueError:
        raise BadInput("widths", repr(widths), "integers separated by commas, such as 100,400,1600") from None
    if seeds < 1:
        raise BadInput("--seeds", seeds, "an integer >= 1")
    if min(numbers) < 2:
        raise BadInput("widths", widths, "integers >= 2")
    net = console.network(min(numbers), "identity", "standard", readout_variance, weight_variance, noise_variance)
    with terminal.progress() as report:
        report("deriving")
        found = study.approximations(theory, net)
        table = study.errors_against_width(found, widths=numbers, seeds=range(seeds),
                                           progress=lambda done, total: report("predicting", done, total))
    if out is not None:
        if out.suffix == ".csv":
            from fieldtheory.files import write_atomically

            write_atomically(out, table[["error", "spread"]].to_dataframe().to_csv())
        else:
            console.write_netcdf(out, table)
        print(f"wrote {out}", file=sys.stderr)
    if as_json:
        terminal.print_json(table["error"].to_dataframe().reset_index().to_dict(orient="records"))
    else:
        title = "relative L2 error of <f> against the exact oracle; exponent of 1/N at the last two N"
        terminal.show(error_rows(table), title, words=(0, 1))
