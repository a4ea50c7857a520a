"""Benchmarks of sfr-batch and its alternatives. `__main__` is the command line; no other package imports this one."""
