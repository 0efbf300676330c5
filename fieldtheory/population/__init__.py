"""The population limit: infinitely many samples of a law of inputs, a target with few modes."""

from fieldtheory.population.theory import PopulationSolution, PopulationTheory

__all__ = ["PopulationSolution", "PopulationTheory"]
