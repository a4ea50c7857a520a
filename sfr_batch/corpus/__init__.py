"""The input of a run.

Which files there are (`shards`), what their metadata says (`survey`), how they are cut (`splits`), and their rows
(`reader`).
"""
