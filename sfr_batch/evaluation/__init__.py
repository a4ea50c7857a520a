"""Scores of a model and of a table: data sets, tasks and measures, through the path that makes the vectors."""
