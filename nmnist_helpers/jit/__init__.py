"""Numba for this package: stored code, tasks on threads, and helper processes that compile."""
