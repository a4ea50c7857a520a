"""Data sets in the field's formats: where their files are, their rows, their columns, and what they hold."""
