"""The command line: `fieldtheory list | derive | phases | predict | sample | validate | sweep`.

Exit status: 0 done; 1 the verdict is not "kept" (rejected, or too few effective samples to tell); 2 bad input, with
one line that says which argument, what was given and what would do. Numbers go to standard output, progress to
standard error. Whatever is heavy is imported inside a command, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldtheory import console
from fieldtheory.console import DISAGREES
from fieldtheory.errors import BadInput

if TYPE_CHECKING:
    from fieldtheory.network import Network
    from fieldtheory.tasks import Dataset

app = typer.Typer(
    cls=console.Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Statistical field theory of Bayesian neural networks: derive, predict, sample, compare.\n\n"
         "Exit status: 0 done, 1 the verdict is not 'kept', 2 bad input.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _option(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar)


TheoryName = Annotated[str, typer.Argument(metavar="THEORY", help="Its name, as `fieldtheory list` prints it.")]
DataOption = Annotated[str, _option(
    "--data", "ising, parity, single-index, digits, or an .npz with X (P, D), y (P), optionally X_test, y_test.",
    "NAME|FILE")]
SamplesOption = Annotated[int | None, _option(
    "--samples", "P, training samples of a named task. [default: the task's; 100 digits]")]
TestOption = Annotated[int | None, _option("--test-samples", "Test inputs of a named task. [default: 0; 40 digits]")]
DimOption = Annotated[int | None, _option("--input-dim", "D, where the task lets it be chosen.")]
ClassesOption = Annotated[str | None, _option("--classes", "The two digits told apart. [default: 3,8]", "A,B")]
DataSeedOption = Annotated[int, _option("--data-seed", "Seed of the task.")]
WidthOption = Annotated[int, _option("--width", "N, the number of hidden neurons.")]
ActivationOption = Annotated[str, _option("--activation", "identity, erf, relu, tanh or quadratic.")]
ScalingOption = Annotated[str, _option(
    "--scaling", "standard, mean-field, or exponents such as 3/2,1/2: readout variance ~ N^-gamma, noise variance ~ "
    "N^-delta.", "NAME|GAMMA,DELTA")]
ReadoutOption = Annotated[float, _option("--readout-variance", "sigma_a^2, before powers of N.")]
WeightOption = Annotated[float, _option("--weight-variance", "sigma_w^2.")]
NoiseOption = Annotated[float, _option("--noise-variance", "s_0, before powers of N.")]
BiasOption = Annotated[float, _option("--bias-variance", "Variance of the hidden biases; 0 for none.")]
ArdOption = Annotated[float | None, _option(
    "--ard", "alpha_0 of an ARD prior of the hidden weights at the same mean precision. [default: no ARD]", "ALPHA")]
ViewOption = Annotated[str | None, _option("--view", "For linear, rescaling or adaptation. [default: the theory's]")]
LoopsOption = Annotated[int | None, _option("--loops", "Order of the expansion. [default: the theory's own]")]
SeedOption = Annotated[int, _option("--seed", "Seed of the chains.")]
MethodOption = Annotated[str, _option("--method", "hmc, mala, underdamped, ula or sgld.")]
ChainsOption = Annotated[int, _option("--chains", "Independent chains.")]
DrawsOption = Annotated[int, _option("--draws", "Draws kept of each chain.")]
WarmupOption = Annotated[int | None, _option(
    "--warmup", "Iterations before the first draw. [default: half as many as follow, at least 500]")]
ThinOption = Annotated[int, _option("--thin", "Iterations per kept draw.")]
StepOption = Annotated[float | None, _option("--step", "Step size. [default: adapted in warm-up]")]
ThreadsOption = Annotated[int | None, _option("--threads", "Chains run at a time. [default: one per processor]")]
TypeOption = Annotated[str, _option("--dtype", "float64, or float32 for weights, data and products.")]
GibbsOption = Annotated[str | None, _option(
    "--gibbs", "Blocks drawn exactly between the iterations, separated by commas: readout, precision.", "BLOCK,...")]
TemperingOption = Annotated[int | None, _option("--tempering", "Rungs of a ladder of chains at growing noise.")]
BatchOption = Annotated[int | None, _option("--batch-size", "Samples per minibatch of sgld. [default: a quarter]")]
ResumeOption = Annotated[bool, _option("--resume", "Go on with the run in --out, or begin it where there is none.")]
OverwriteOption = Annotated[bool, _option("--overwrite", "Replace the run in --out.")]
EveryOption = Annotated[float, _option("--checkpoint-every", "Seconds between two states saved in a .zarr.")]
DrawnOption = Annotated[Path | None, _option(
    "--out", "Write the draws: a .zarr while they are made, for --resume, or an .nc at the end.", "FILE")]
LevelOption = Annotated[float, _option("--level", "Probability of a false rejection, over all observables at once.")]
VerifyOption = Annotated[bool, _option("--verify", "Check every step numerically, and print the report.")]
WidthsOption = Annotated[str | None, _option(
    "--widths", "Widths, separated by commas. [default: 100,400,1600]", "N,N,...")]
SeedsOption = Annotated[int | None, _option(
    "--seeds", "Data sets drawn at each point; errors are their mean. [default: 1]")]
SweptOption = Annotated[str | None, typer.Argument(
    metavar="THEORY|FILE.toml", help="What to compute, as a file; or a theory's name.", show_default=False)]
SweptReadoutOption = Annotated[float | None, _option("--readout-variance", "sigma_a^2 beside a theory. [default: 1]")]
SweptWeightOption = Annotated[float | None, _option("--weight-variance", "sigma_w^2 beside a theory. [default: 1]")]
SweptNoiseOption = Annotated[float | None, _option("--noise-variance", "s_0 beside a theory. [default: 1]")]
SweptOutOption = Annotated[Path | None, _option(
    "--out", "The folder of a .toml file's results; beside a theory, a file.", "FOLDER|FILE")]
JobsOption = Annotated[int | None, _option("--jobs", "Processes that share the points of a .toml file. [default: 1]")]
RetryOption = Annotated[bool, _option("--retry", "Compute again the points that failed.")]
ExampleOption = Annotated[bool, _option("--example", "Print a .toml file with comments, and do nothing else.")]
FixOption = Annotated[str, _option("--fix", "The exponent held fixed in each panel: gamma, delta or p.", "EXPONENT")]
FixedOption = Annotated[str, _option("--at", "Its values, separated by commas; fractions such as 1/2.", "VALUE,...")]
JsonOption = Annotated[bool, _option("--json", "Numbers as JSON on standard output, and nothing else there.")]
FileOption = Annotated[Path | None, _option("--out", "Write to this file, whole or not at all.", "FILE")]
FolderOption = Annotated[Path | None, _option("--out", "Write report.html and derivation.tex there.", "FOLDER")]


# ----------------------------------------------------------------------------------------------------- commands


@app.command("list", short_help="List the theories.")
def list_theories(as_json: JsonOption = False) -> None:
    """List the theories, ours and those that other packages bring.

    Example: fieldtheory list
    """
    from fieldtheory.theory import theories

    found = theories.describe()
    if as_json:
        console.print_json(found)
    else:
        console.show([["theory", "what it is"], *([name, line] for name, line in found.items())], words=(0, 1))


@app.command(short_help="Derive a theory and print it as LaTeX.")
def derive(
    theory: TheoryName, view: ViewOption = None, loops: LoopsOption = None, activation: ActivationOption = "identity",
    out: FileOption = None,
    verify: VerifyOption = False, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:
    """Derive a theory from the network's action, and print the derivation as LaTeX (or write it with --out).

    Everything stays symbolic, the scaling too. Exit status 1 if --verify finds a step that does not hold.

    Example: fieldtheory derive linear --view adaptation --verify --out adaptation.tex
    """
    from fieldtheory.network import Network, Scaling

    console.check_out(out, (".tex",))
    found = console.theory(theory, Network(activation=activation, scaling=Scaling()), view, loops)
    derivation = found.derivation
    if out is not None:
        derivation.to_latex(out)
        print(f"wrote {out}", file=sys.stderr)
    report = derivation.verify(seed) if verify else None
    if as_json:
        from fieldtheory.symbolic.printing import latex

        printed = {"title": derivation.title,
                   "steps": [{"rule": step.rule, "exact": bool(step.exact), "action": latex(step.after.expr)}
                             for step in derivation.steps],
                   "equations": {name: latex(equation) for name, equation in found.equations.items()}}
        if report is not None:
            printed["verification"] = {"ok": report.ok, "seconds": report.seconds, "rows": [
                {"step": row.step, "rule": row.rule, "quantity": row.quantity, "error": row.error,
                 "tolerance": row.tolerance, "ok": row.ok, "message": row.message} for row in report.rows]}
        console.print_json(printed)
    else:
        if out is None and report is None:
            from fieldtheory.export.latex import derivation_document

            print(derivation_document(derivation))
        if report is not None:
            print(report)
    if report is not None and not report.ok:
        raise typer.Exit(DISAGREES)


@app.command(short_help="Draw where a saddle suffices and where loops fail.")
def phases(
    theory: TheoryName, view: ViewOption = None, fix: FixOption = "delta", values: FixedOption = "0,1/2,1",
    out: FileOption = None, as_json: JsonOption = False,
) -> None:
    """Count the powers of N of a theory's loops for all scaling exponents at once, and say where a loop order closes.

    Readout variance ~ N^-gamma, noise variance ~ N^-delta, samples ~ N^p. Prints the inequalities; --out draws them,
    one panel for each value of the exponent that --fix names (.png, .svg or .pdf).

    Example: fieldtheory phases linear --view adaptation --out phases.png
    """
    from fieldtheory.network import Network, Scaling

    console.check_out(out, (".png", ".svg", ".pdf"))
    console.phase_planes(fix, values)
    counting = console.phase_counting(console.theory(theory, Network(scaling=Scaling()), view, None))
    if out is not None:
        figure = console.phase_figure(counting, fix, values)
        console.write_figure(out, figure)
        print(f"wrote {out}", file=sys.stderr)
    regions = counting.regions()
    if as_json:
        console.print_json({"theory": theory, "exponents": [s.name for s in counting.parameters],
                            "regions": {verdict: [list(map(console.relation_text, polyhedron)) for polyhedron in found]
                                        for verdict, found in regions.items()},
                            "assumptions": list(counting.assumptions)})
    else:
        from fieldtheory.symbolic.loopcounting import WORDS

        for verdict, found in regions.items():
            if found:
                print(f"{WORDS[verdict]} where")
                for polyhedron in found:
                    print(f"  {',  '.join(map(console.relation_text, polyhedron)) or 'always'}")


@app.command(short_help="Predict outputs, variances and order parameters.")
def predict(
    theory: TheoryName, data: DataOption = "ising", width: WidthOption = 100, samples: SamplesOption = None,
    input_dim: DimOption = None, test_samples: TestOption = None, classes: ClassesOption = None,
    data_seed: DataSeedOption = 0, scaling: ScalingOption = "mean-field", readout_variance: ReadoutOption = 1.0,
    weight_variance: WeightOption = 1.0, noise_variance: NoiseOption = 1.0, activation: ActivationOption = "identity",
    bias_variance: BiasOption = 0.0, ard: ArdOption = None, view: ViewOption = None, loops: LoopsOption = None,
    out: FileOption = None, as_json: JsonOption = False,
) -> None:
    """Predict mean outputs, variances, order parameters and log evidence. THEORY may be `exact`, the oracle.

    Example: fieldtheory predict linear --data digits --view rescaling --loops 2 --out prediction.nc
    """
    console.check_out(out, (".nc",))
    net = console.network(width, activation, scaling, readout_variance, weight_variance, noise_variance,
                          bias_variance=bias_variance, ard=ard)
    dataset = console.dataset(data, samples, test_samples, input_dim, classes, data_seed)
    if theory == "exact":
        from fieldtheory import exact

        if view is not None or loops is not None:
            raise BadInput("theory", "exact with --view or --loops", "neither: the oracle does not expand")
        prediction = exact.linear(net, dataset)
    else:
        prediction = console.theory(theory, net, view, loops).predict(dataset)
    if out is not None:
        console.write_netcdf(out, prediction)
        print(f"wrote {out}", file=sys.stderr)
    if as_json:
        console.print_json(console.as_mapping(prediction))
    elif out is None:
        import numpy as np

        scalars = [[str(name), f"{float(prediction[name]):.8g}"] for name in prediction.data_vars
                   if prediction[name].ndim == 0]
        vectors = [[f"{name} ({prediction[name].size})", f"mean {float(prediction[name].mean()):+.4g}, "
                    f"root mean square {float(np.sqrt((prediction[name] ** 2).mean())):.4g}"]
                   for name in prediction.data_vars if prediction[name].ndim == 1]
        facts = [[key, str(prediction.attrs[key])]
                 for key in ("theory", "view", "loops", "status", "residual", "remainder")
                 if prediction.attrs.get(key) not in (None, "")]
        title = f"{theory} on {dataset.name}, N = {net.width}, P = {dataset.samples}, {net.scaling.name} scaling"
        console.show([["quantity", "value"], *scalars, *vectors, *facts], title, words=(0, 1))


@app.command(short_help="Sample the posterior by chains.")
def sample(
    data: DataOption = "ising", width: WidthOption = 100, samples: SamplesOption = None, input_dim: DimOption = None,
    test_samples: TestOption = None, classes: ClassesOption = None, data_seed: DataSeedOption = 0,
    scaling: ScalingOption = "mean-field", readout_variance: ReadoutOption = 1.0, weight_variance: WeightOption = 1.0,
    noise_variance: NoiseOption = 1.0, activation: ActivationOption = "identity", bias_variance: BiasOption = 0.0,
    ard: ArdOption = None, method: MethodOption = "hmc",
    chains: ChainsOption = 8, draws: DrawsOption = 1000, warmup: WarmupOption = None, thin: ThinOption = 1,
    step: StepOption = None, seed: SeedOption = 0, threads: ThreadsOption = None, dtype: TypeOption = "float64",
    gibbs: GibbsOption = None, tempering: TemperingOption = None, batch_size: BatchOption = None,
    out: DrawnOption = None, resume: ResumeOption = False, overwrite: OverwriteOption = False,
    checkpoint_every: EveryOption = 30.0, as_json: JsonOption = False,
) -> None:
    """Sample the posterior over the network's weights by Langevin or Hamiltonian chains, which know no theory.

    With --out run.zarr the draws are written while they are made. However the run ends, Ctrl-C, kill -9 or a full
    disk, the same command with --resume goes on, and the draws are those of a run that nothing ended; with more
    --draws it is extended.

    Example: fieldtheory sample --data digits --method mala --chains 4 --draws 2000 --thin 10 --out samples.nc

    Example: fieldtheory sample --data digits --activation erf --gibbs readout --draws 100000 --out run.zarr --resume

    Example: fieldtheory sample --data parity --activation relu --bias-variance 1 --ard 4 --gibbs precision
    """
    from fieldtheory.sampling import sample as run_chains
    from fieldtheory.sampling import summarise
    from fieldtheory.sampling.convergence import diagnose

    console.check_out(out, (".zarr", ".nc"), folders=True)
    streams = out is not None and out.suffix == ".zarr"
    for flag, given in (("resume", resume), ("overwrite", overwrite)):
        if given and not streams:
            raise BadInput(flag, f"--{flag} with {out or 'no --out'}", "--out with a name ending in .zarr")
    stored: dict[str, Any] = dict(out=out, resume=resume, overwrite=overwrite, checkpoint_every=checkpoint_every)
    net = console.network(width, activation, scaling, readout_variance, weight_variance, noise_variance,
                          bias_variance=bias_variance, ard=ard)
    dataset = console.dataset(data, samples, test_samples, input_dim, classes, data_seed)
    drawn = run_chains(net, dataset, method=method, chains=chains, draws=draws, warmup=warmup, thin=thin, step=step,
                       seed=seed, threads=threads, dtype=dtype, gibbs=tuple(gibbs.split(",")) if gibbs else (),
                       tempering=tempering, batch_size=batch_size, progress=console.bars("sampling"),
                       **(stored if streams else {}))
    with console.progress() as report:
        report("effective samples and standard errors")
        summary = summarise(drawn)
    if out is not None:
        if not streams:
            console.write_netcdf(out, drawn)
        print(f"wrote {out}", file=sys.stderr)
    if chains < 2 or draws < 4:
        print("R-hat needs at least 2 chains of 4 draws each; it is nan here", file=sys.stderr)
    else:
        print(diagnose(drawn).verdict, file=sys.stderr)
    if as_json:
        console.print_json({"attributes": dict(summary.attrs), **{
            str(name): {str(key): summary[name].sel(statistic=key).values for key in summary.statistic.values}
            for name in summary.data_vars}})
        return
    rows = [["observable", "entries", "mean", "largest MCSE", "smallest ESS", "largest R-hat"]]
    for name in summary.data_vars:
        mean, mcse, ess, rhat = (summary[name].sel(statistic=key) for key in ("mean", "mcse", "ess", "rhat"))
        shown = f"{float(mean):.6g}" if mean.ndim == 0 else f"{float(mean.min()):.3g} .. {float(mean.max()):.3g}"
        rows.append([str(name), str(mean.size), shown, f"{float(mcse.max()):.2g}", f"{float(ess.min()):.0f}",
                     f"{float(rhat.max()):.4f}"])
    title = f"{method} on {dataset.name}, N = {net.width}, P = {dataset.samples}, {net.scaling.name} scaling"
    console.show(rows, title)


@app.command(short_help="Compare a theory with chains, and write a report.")
def validate(
    theory: TheoryName, data: DataOption = "ising", out: FolderOption = None, width: WidthOption = 100,
    samples: SamplesOption = None, input_dim: DimOption = None, test_samples: TestOption = None,
    classes: ClassesOption = None, data_seed: DataSeedOption = 0, scaling: ScalingOption = "mean-field",
    readout_variance: ReadoutOption = 1.0, weight_variance: WeightOption = 1.0, noise_variance: NoiseOption = 1.0,
    activation: ActivationOption = "identity", view: ViewOption = None, loops: LoopsOption = None,
    method: MethodOption = "hmc", chains: ChainsOption = 8, draws: DrawsOption = 1000, warmup: WarmupOption = None,
    thin: ThinOption = 1, step: StepOption = None, seed: SeedOption = 0,
    level: LevelOption = 0.01, as_json: JsonOption = False,
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
    net = console.network(width, activation, scaling, readout_variance, weight_variance, noise_variance)
    dataset = console.dataset(data, samples, test_samples, input_dim, classes, data_seed)
    with console.progress() as report:
        study, judged = _study(theory, net, dataset, view, loops, level, out is not None, report, dict(
            method=method, chains=chains, draws=draws, warmup=warmup, thin=thin, step=step, seed=seed))
        written: Mapping[str, Path] = {}
        if out is not None:
            from fieldtheory.export.report import write_report

            report("writing the report")
            written = write_report(out, study)
    from fieldtheory.export import report as words

    status = next(result.status for result in study if result.label == judged)
    if as_json:
        console.print_json({
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
        console.show(words.comparison_rows(study), title, rule_after=len(study.results) - 1)
        for line in words.findings(study):
            print(line)
        for line in words.expectations(study):
            print(f"  {line}")
        for path in written.values():
            print(f"wrote {path}")
        print(f"judged: {judged}: {status} ({time.perf_counter() - started:.0f} s)")
    if status != "kept":
        raise typer.Exit(DISAGREES)


def _study(name: str, net: Network, data: Dataset, view: str | None, loops: int | None, level: float, full: bool,
           report: Callable[..., None], sampling: dict[str, Any]) -> tuple[Any, str]:
    """Everything that is shown, and the label of what is judged."""
    from fieldtheory.export import study
    from fieldtheory.sampling import sample as run_chains
    from fieldtheory.verdict import Sampled

    report("deriving")
    chosen = console.theory(name, net, view, loops)  # before the chains run, so that bad input is refused at once
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


@app.command(short_help="Compute figures over axes from a file, or errors over widths.")
def sweep(
    what: SweptOption = None, widths: WidthsOption = None, seeds: SeedsOption = None,
    readout_variance: SweptReadoutOption = None, weight_variance: SweptWeightOption = None,
    noise_variance: SweptNoiseOption = None, out: SweptOutOption = None, jobs: JobsOption = None,
    retry: RetryOption = False, example: ExampleOption = False, as_json: JsonOption = False,
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
    with console.progress() as report:
        report("deriving")

        def follow(state: Any) -> None:
            last = state.last and f"{state.last['approximation']}: {state.last['state']}"
            report("sweeping", state.done, state.total,
                   note=", ".join(filter(None, [console.duration(state.seconds_left), last])))

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
        console.print_json({"attributes": dict(table.attrs), "results": [
            {name: value for name, value in row.items() if value == value} for row in flat.to_dict(orient="records")]})
    else:
        lines = rows(table, asked.figures["quantities"])
        console.show(lines, f"{table.attrs['title']} (± over seeds; ?: with a reservation)")


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
    with console.progress() as report:
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
        console.print_json(table["error"].to_dataframe().reset_index().to_dict(orient="records"))
    else:
        title = "relative L2 error of <f> against the exact oracle; exponent of 1/N at the last two N"
        console.show(error_rows(table), title, words=(0, 1))


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
