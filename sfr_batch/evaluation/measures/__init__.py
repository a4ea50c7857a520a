"""Measures of each type of task, as MTEB computes them: numbers in, scores out. No model, no files, no texts."""
