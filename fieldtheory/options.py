"""The options of the command line: what each is called, and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _option(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar)


Theory = Annotated[str, typer.Argument(metavar="THEORY", help="Its name, as `fieldtheory list` prints it.")]
Data = Annotated[str, _option(
    "--data", "ising, parity, single-index, multi-index, digits, or an .npz with X (P, D), y (P), optionally X_test, "
    "y_test.", "NAME|FILE")]
Samples = Annotated[int | None, _option(
    "--samples", "P, training samples of a named task. [default: the task's; 100 digits]")]
Test = Annotated[int | None, _option("--test-samples", "Test inputs of a named task. [default: 0; 40 digits]")]
Dim = Annotated[int | None, _option("--input-dim", "D, where the task lets it be chosen.")]
Classes = Annotated[str | None, _option("--classes", "The two digits told apart. [default: 3,8]", "A,B")]
DataSeed = Annotated[int, _option("--data-seed", "Seed of the task.")]
Width = Annotated[int, _option("--width", "N, the number of hidden neurons.")]
Activation = Annotated[str, _option("--activation", "identity, erf, relu, tanh or quadratic.")]
Scaling = Annotated[str, _option(
    "--scaling", "standard, mean-field, or exponents such as 3/2,1/2: readout variance ~ N^-gamma, noise variance ~ "
    "N^-delta.", "NAME|GAMMA,DELTA")]
Readout = Annotated[float, _option("--readout-variance", "sigma_a^2, before powers of N.")]
Weight = Annotated[float, _option("--weight-variance", "sigma_w^2.")]
Noise = Annotated[float, _option("--noise-variance", "s_0, before powers of N.")]
Bias = Annotated[float, _option("--bias-variance", "Variance of the hidden biases; 0 for none.")]
Ard = Annotated[float | None, _option(
    "--ard", "alpha_0 of an ARD prior of the hidden weights at the same mean precision. [default: no ARD]", "ALPHA")]
View = Annotated[str | None, _option("--view", "For linear, rescaling or adaptation. [default: the theory's]")]
Resolvent = Annotated[str | None, _option(
    "--resolvent", "For collapsed-mean-field, mean or self-consistent. [default: the theory's]")]
Effort = Annotated[str | None, _option(
    "--effort", "For theories with particles: ensembles, particles, settle, average, measure, seed.", "NAME=N,...")]
Start = Annotated[str | None, _option(
    "--start", "Where particles begin: prior, large or planted. [default: prior]")]
Relevant = Annotated[str | None, _option("--relevant", "The inputs that --start planted plants, from 0.", "INPUT,...")]
Loops = Annotated[int | None, _option("--loops", "Order of the expansion. [default: the theory's own]")]
Seed = Annotated[int, _option("--seed", "Seed of the chains.")]
Method = Annotated[str, _option("--method", "hmc, mala, underdamped, ula or sgld.")]
Chains = Annotated[int, _option("--chains", "Independent chains.")]
Draws = Annotated[int, _option("--draws", "Draws kept of each chain.")]
Warmup = Annotated[int | None, _option(
    "--warmup", "Iterations before the first draw. [default: half as many as follow, at least 500]")]
Thin = Annotated[int, _option("--thin", "Iterations per kept draw.")]
Step = Annotated[float | None, _option("--step", "Step size. [default: adapted in warm-up]")]
Threads = Annotated[int | None, _option("--threads", "Chains run at a time. [default: one per processor]")]
Type = Annotated[str, _option("--dtype", "float64, or float32 for weights, data and products.")]
Gibbs = Annotated[str | None, _option(
    "--gibbs", "Blocks drawn exactly between the iterations, separated by commas: readout, precision.", "BLOCK,...")]
Tempering = Annotated[int | None, _option("--tempering", "Rungs of a ladder of chains at growing noise.")]
Batch = Annotated[int | None, _option("--batch-size", "Samples per minibatch of sgld. [default: a quarter]")]
Resume = Annotated[bool, _option("--resume", "Go on with the run in --out, or begin it where there is none.")]
Overwrite = Annotated[bool, _option("--overwrite", "Replace the run in --out.")]
Every = Annotated[float, _option("--checkpoint-every", "Seconds between two states saved in a .zarr.")]
Drawn = Annotated[Path | None, _option(
    "--out", "Write the draws: a .zarr while they are made, for --resume, or an .nc at the end.", "FILE")]
Level = Annotated[float, _option("--level", "Probability of a false rejection, over all observables at once.")]
Verify = Annotated[bool, _option("--verify", "Check every step numerically, and print the report.")]
Widths = Annotated[str | None, _option(
    "--widths", "Widths, separated by commas. [default: 100,400,1600]", "N,N,...")]
Seeds = Annotated[int | None, _option(
    "--seeds", "Data sets drawn at each point; errors are their mean. [default: 1]")]
Swept = Annotated[str | None, typer.Argument(
    metavar="THEORY|FILE.toml", help="What to compute, as a file; or a theory's name.", show_default=False)]
SweptReadout = Annotated[float | None, _option("--readout-variance", "sigma_a^2 beside a theory. [default: 1]")]
SweptWeight = Annotated[float | None, _option("--weight-variance", "sigma_w^2 beside a theory. [default: 1]")]
SweptNoise = Annotated[float | None, _option("--noise-variance", "s_0 beside a theory. [default: 1]")]
SweptOut = Annotated[Path | None, _option(
    "--out", "The folder of a .toml file's results; beside a theory, a file.", "FOLDER|FILE")]
Jobs = Annotated[int | None, _option("--jobs", "Processes that share the points of a .toml file. [default: 1]")]
Retry = Annotated[bool, _option("--retry", "Compute again the points that failed.")]
Example = Annotated[bool, _option("--example", "Print a .toml file with comments, and do nothing else.")]
Fix = Annotated[str, _option("--fix", "The exponent held fixed in each panel: gamma, delta or p.", "EXPONENT")]
Fixed = Annotated[str, _option("--at", "Its values, separated by commas; fractions such as 1/2.", "VALUE,...")]
Json = Annotated[bool, _option("--json", "Numbers as JSON on standard output, and nothing else there.")]
File = Annotated[Path | None, _option("--out", "Write to this file, whole or not at all.", "FILE")]
Folder = Annotated[Path | None, _option("--out", "Write report.html and derivation.tex there.", "FOLDER")]
Law = Annotated[str, _option("--law", "Of the inputs: hypercube or gaussian.")]
Target = Annotated[str, _option(
    "--target", "Modes with coefficients: 2 is the parity of two inputs, or he_2 of one; 1:1,3:-0.3 a sum; 1x1 a "
    "product of he_1 of two inputs.", "MODE[:C],...")]
Inputs = Annotated[int, _option("--input-dim", "D, the number of inputs.")]
Ridges = Annotated[str, _option("--noise", "Values of s/P, separated by commas.", "VALUE,...")]
Order = Annotated[int | None, _option("--order", "Keep modes of the output up to this order, where few are kept.")]
Nodes = Annotated[int | None, _option(
    "--nodes", "Nodes of the average over the law of one neuron, for each random shift. [default: the theory's]")]
