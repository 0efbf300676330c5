"""The population limit: infinitely many samples of a law of inputs, a target with few modes."""

from fieldtheory.population.base import PopulationSolution, PopulationTheory
from fieldtheory.population.branches import Branches, Spinodal, Transition
from fieldtheory.population.collapsed import CollapsedPopulation, CollapsedSolution
from fieldtheory.population.meanfield import MeanFieldPopulation

__all__ = ["Branches", "CollapsedPopulation", "CollapsedSolution", "MeanFieldPopulation", "PopulationSolution",
           "PopulationTheory", "Spinodal", "Transition"]
