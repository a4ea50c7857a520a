"""Chaos: processes that die at any moment, and the same command again; see `python -m tests.chaos --help`."""
