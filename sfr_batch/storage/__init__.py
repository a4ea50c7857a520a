"""Objects on a local disk or S3. The only package that opens files.

`Store.create` (create if absent) is what every guarantee of a table rests on.
"""
