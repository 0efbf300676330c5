"""The command line: `fieldtheory list | derive | phases | predict | population | sample | validate | sweep`.

Exit status: 0 done; 1 the verdict is not "kept" (rejected, or too few effective samples to tell); 2 bad input, with
one line that says which argument, what was given and what would do. Numbers go to standard output, progress to
standard error. Whatever is heavy is imported inside a command, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from fieldtheory import comparisons, console, terminal
from fieldtheory import options as option
from fieldtheory.console import DISAGREES
from fieldtheory.errors import BadInput

app = typer.Typer(
    cls=console.Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Statistical field theory of Bayesian neural networks: derive, predict, sample, compare.\n\n"
         "Exit status: 0 done, 1 the verdict is not 'kept', 2 bad input.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.command("list", short_help="List the theories.")
def list_theories(as_json: option.Json = False) -> None:
    """List the theories, ours and those that other packages bring.

    Example: fieldtheory list
    """
    from fieldtheory.catalogue import theories

    found = theories.describe()
    if as_json:
        terminal.print_json(found)
    else:
        terminal.show([["theory", "what it is"], *([name, line] for name, line in found.items())], words=(0, 1))


@app.command(short_help="Derive a theory and print it as LaTeX.")
def derive(
    theory: option.Theory, view: option.View = None, loops: option.Loops = None, resolvent: option.Resolvent = None,
    activation: option.Activation = "identity", bias_variance: option.Bias = 0.0, ard: option.Ard = None,
    out: option.File = None, verify: option.Verify = False, seed: option.Seed = 0, as_json: option.Json = False,
) -> None:
    """Derive a theory from the network's action, and print the derivation as LaTeX (or write it with --out).

    Everything stays symbolic, the scaling too. Exit status 1 if --verify finds a step that does not hold.

    Example: fieldtheory derive linear --view adaptation --verify --out adaptation.tex
    """
    from fieldtheory.network import Network, Scaling

    console.check_out(out, (".tex",))
    net = Network(activation=activation, scaling=Scaling(), **console.priors(bias_variance, ard))
    found = console.theory(theory, net, view=view, loops=loops, resolvent=resolvent)
    derivation = found.derivation
    if out is not None:
        with console.written(out):
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
        terminal.print_json(printed)
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
    theory: option.Theory, view: option.View = None, fix: option.Fix = "delta", values: option.Fixed = "0,1/2,1",
    out: option.File = None, as_json: option.Json = False,
) -> None:
    """Count the powers of N of a theory's loops for all scaling exponents at once, and say where a loop order closes.

    Readout variance ~ N^-gamma, noise variance ~ N^-delta, samples ~ N^p. Prints the inequalities; --out draws them,
    one panel for each value of the exponent that --fix names (.png, .svg or .pdf).

    Example: fieldtheory phases linear --view adaptation --out phases.png
    """
    from fieldtheory.network import Network, Scaling

    console.check_out(out, (".png", ".svg", ".pdf"))
    console.phase_planes(fix, values)
    try:
        derived = console.theory(theory, Network(scaling=Scaling()), view=view)
    except BadInput as error:
        if not error.argument.startswith("prior"):
            raise
        raise BadInput("theory", theory, "a theory with an equation of state, of a fixed prior") from None
    counting = console.phase_counting(derived)
    if out is not None:
        figure = console.phase_figure(counting, fix, values)
        console.write_figure(out, figure)
        print(f"wrote {out}", file=sys.stderr)
    regions = counting.regions()
    if as_json:
        terminal.print_json({"theory": theory, "exponents": [s.name for s in counting.parameters],
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
    theory: option.Theory, data: option.Data = "ising", width: option.Width = 100, samples: option.Samples = None,
    input_dim: option.Dim = None, test_samples: option.Test = None, classes: option.Classes = None,
    data_seed: option.DataSeed = 0, scaling: option.Scaling = "mean-field", readout_variance: option.Readout = 1.0,
    weight_variance: option.Weight = 1.0, noise_variance: option.Noise = 1.0,
    activation: option.Activation = "identity", bias_variance: option.Bias = 0.0, ard: option.Ard = None,
    view: option.View = None, loops: option.Loops = None, resolvent: option.Resolvent = None,
    effort: option.Effort = None, start: option.Start = None, relevant: option.Relevant = None,
    out: option.File = None, as_json: option.Json = False,
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

        if any(value is not None for value in (view, loops, resolvent, effort, start, relevant)):
            raise BadInput("theory", "exact with options of a theory", "none: the oracle does not expand")
        prediction = exact.linear(net, dataset)
    else:
        search = console.search(effort, start, relevant)
        found = console.theory(theory, net, view=view, loops=loops, resolvent=resolvent)
        prediction = found.predict(dataset, **search)
    if out is not None:
        console.write_netcdf(out, prediction)
        print(f"wrote {out}", file=sys.stderr)
    if as_json:
        terminal.print_json(terminal.as_mapping(prediction))
    elif out is None:
        scalars, vectors = terminal.quantities(prediction, dataset.y_test)
        facts = [[key, f"{value:.3g}" if isinstance(value, float) else str(value)]
                 for key in ("theory", "view", "loops", "status", "residual", "remainder")
                 if (value := prediction.attrs.get(key)) not in (None, "")]
        title = f"{theory} on {dataset.name}, N = {net.width}, P = {dataset.samples}, {net.scaling.name} scaling"
        terminal.show([["quantity", "value"], *scalars, *vectors, *facts], title, words=(0, 1))


@app.command(short_help="Solve a theory for infinitely many samples.")
def population(
    theory: option.Theory, law: option.Law = "hypercube", target: option.Target = "2", input_dim: option.Inputs = 8,
    noise: option.Ridges = "0.04,0.01,0.0025", width: option.Width = 64, scaling: option.Scaling = "standard",
    readout_variance: option.Readout = 1.0, weight_variance: option.Weight = 1.0,
    activation: option.Activation = "relu", ard: option.Ard = None, loops: option.Loops = None,
    resolvent: option.Resolvent = None, order: option.Order = None, nodes: option.Nodes = None,
    as_json: option.Json = False,
) -> None:
    """Order parameters and test error of a theory for infinitely many samples of a law of inputs, at noises s/P.

    The target is a parity on the hypercube, or a sum of Hermite modes of a few directions for Gaussian inputs.

    Example: fieldtheory population collapsed-mean-field --law gaussian --target 2 --input-dim 10 --noise 0.01,0.0025
    """
    import dataclasses
    import inspect

    net = console.network(width, activation, scaling, readout_variance, weight_variance, 1.0, ard=ard)
    ridges, wanted = console.numbers("noise", noise), console.modes(target)
    limit = console.theory(theory, net, loops=loops, resolvent=resolvent).population_limit(law, wanted, order=order)
    if nodes is not None and "nodes" not in inspect.signature(limit.solve).parameters:
        raise BadInput("nodes", nodes, f"no --nodes: the theory {theory} has none")
    given = {} if nodes is None else {"nodes": nodes}
    with terminal.progress() as report:
        solutions = []
        for done, ridge in enumerate(ridges):
            report("solving", done, len(ridges))
            solutions.append(limit.solve(input_dim, ridge, **given))
    if as_json:
        terminal.print_json({"theory": theory, "law": law, "input_dim": input_dim, "solutions": [
            {"noise": ridge, **{field.name: terminal.by_text(getattr(solution, field.name))
                                for field in dataclasses.fields(solution)}}
            for ridge, solution in zip(ridges, solutions, strict=True)]})
        return
    names = [f"m_{'x'.join(map(str, mode)) if isinstance(mode, tuple) else mode}" for mode in limit.modes]
    precise = [f"lambda {name}" for name in solutions[0].precisions]
    rows = [["s/P", *names, *precise, "test error", "status"]]
    for ridge, solution in zip(ridges, solutions, strict=True):
        shown = [terminal.with_error(value, errors[key])
                 for values, errors in ((solution.order_parameters, solution.errors),
                                        (solution.precisions, solution.precision_errors))
                 for key, value in values.items()]
        rows.append([f"{ridge:g}", *shown, terminal.with_error(solution.test_error, 0.0), solution.status])
    terminal.show(rows, f"{theory}, {law} inputs, D = {input_dim}, N = {net.width}, {net.scaling.name} scaling",
                 words=(len(rows[0]) - 1,))


@app.command(short_help="Sample the posterior by chains.")
def sample(
    data: option.Data = "ising", width: option.Width = 100, samples: option.Samples = None,
    input_dim: option.Dim = None, test_samples: option.Test = None, classes: option.Classes = None,
    data_seed: option.DataSeed = 0, scaling: option.Scaling = "mean-field", readout_variance: option.Readout = 1.0,
    weight_variance: option.Weight = 1.0, noise_variance: option.Noise = 1.0,
    activation: option.Activation = "identity", bias_variance: option.Bias = 0.0, ard: option.Ard = None,
    method: option.Method = "hmc", chains: option.Chains = 8, draws: option.Draws = 1000, warmup: option.Warmup = None,
    thin: option.Thin = 1, step: option.Step = None, seed: option.Seed = 0, threads: option.Threads = None,
    dtype: option.Type = "float64", gibbs: option.Gibbs = None, tempering: option.Tempering = None,
    batch_size: option.Batch = None, out: option.Drawn = None, resume: option.Resume = False,
    overwrite: option.Overwrite = False, checkpoint_every: option.Every = 30.0, as_json: option.Json = False,
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
                       tempering=tempering, batch_size=batch_size, progress=terminal.bars("sampling"),
                       **(stored if streams else {}))
    with terminal.progress() as report:
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
        terminal.print_json({"attributes": dict(summary.attrs), **{
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
    terminal.show(rows, title)


app.command(short_help="Compare a theory with chains, and write a report.")(comparisons.validate)
app.command(short_help="Compute figures over axes from a file, or errors over widths.")(comparisons.sweep)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
