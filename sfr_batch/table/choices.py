"""What commands offer for a table, and say in their `--help`: names of engines, sizes of a compaction.

Imports nothing: help is quick.
"""

ANY, ARROW = "any", "arrow"
CHOICES = (ANY, "spark", "trino", "hive", "athena", "bigquery", "duckdb", "polars", "lancedb", ARROW)
"""Engines that rows can leave for. "any": types and names that all of them read; "arrow": as in the table; the others
are those of `engine_types.ENGINES`."""

ROWS_PER_FILE = 8192
"""Most vectors of a new data file of a compaction: as many as a split has by default."""
MAX_UNNEEDED = 0.2
"""Share of unneeded rows above which a compaction rewrites a file."""
