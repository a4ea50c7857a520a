"""What a run does: read, encode, write; in this process (`local`) or on Ray (`execution`).

`runner` is the table of contents.
"""
