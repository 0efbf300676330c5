"""The population limit: infinitely many samples of a law of inputs, a target with few modes.

A theory makes it: ``ft.theories["mean-field"](net).population_limit("gaussian", 2)``.
"""

from fieldtheory.population.adaptive import AdaptiveKernelPopulation, AdaptiveSolution
from fieldtheory.population.base import PopulationSolution, PopulationTheory
from fieldtheory.population.branches import Branches, Spinodal, Transition
from fieldtheory.population.collapsed import CollapsedPopulation, CollapsedSolution
from fieldtheory.population.collapsed_ard import CollapsedARDPopulation
from fieldtheory.population.collapseddirections import CollapsedDirections, DirectionsSolution
from fieldtheory.population.directions_ard import CollapsedARDDirections
from fieldtheory.population.fixed import FixedKernelPopulation
from fieldtheory.population.limit import population_limit
from fieldtheory.population.meanfield import MeanFieldPopulation

__all__ = ["AdaptiveKernelPopulation", "AdaptiveSolution", "Branches", "CollapsedARDDirections",
           "CollapsedARDPopulation", "CollapsedDirections", "CollapsedPopulation", "CollapsedSolution",
           "DirectionsSolution", "FixedKernelPopulation", "MeanFieldPopulation", "PopulationSolution",
           "PopulationTheory", "Spinodal", "Transition", "population_limit"]
