"""Benchmarks against what else one could run: measured as whole processes, checked for equal vectors, reported.

On top of everything: nothing of the package imports this one. `__main__` is its command line.
"""
