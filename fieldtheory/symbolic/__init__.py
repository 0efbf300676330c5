"""Symbols only: no NumPy, no Numba. See the module of each step, from fields to printing."""
