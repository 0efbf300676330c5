"""The population limit: infinitely many samples of a law of inputs, a target with few modes."""

from fieldtheory.population.branches import Branches, Spinodal, Transition
from fieldtheory.population.collapsed import CollapsedPopulationTheory, CollapsedSolution
from fieldtheory.population.theory import PopulationSolution, PopulationTheory

__all__ = ["Branches", "CollapsedPopulationTheory", "CollapsedSolution", "PopulationSolution", "PopulationTheory",
           "Spinodal", "Transition"]
