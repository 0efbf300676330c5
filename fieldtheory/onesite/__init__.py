"""Averages over the law of one site in a self-consistent environment: plans, particles, solutions, predictions."""
