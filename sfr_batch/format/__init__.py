"""The on-disk format of a table: names, records, hashes, Parquet and index files.

The specification is README.md in this folder.
"""
