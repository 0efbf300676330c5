"""Figures as commands: a file says what to compute over which axes; every point is kept as soon as it is finished."""

from fieldtheory.export.sweep.run import run_sweep
from fieldtheory.export.sweep.settings import EXAMPLE, Sweep
from fieldtheory.export.sweep.table import over_seeds

__all__ = ["EXAMPLE", "Sweep", "over_seeds", "run_sweep"]
