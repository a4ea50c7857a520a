"""The report of an evaluation as a value, and how it is shown and kept."""
