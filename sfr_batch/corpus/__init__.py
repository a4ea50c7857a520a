"""The input of a run.

`shards` lists the files, `survey` says what they hold before they are read, `columns` decides the types of the table's
columns, `splits` cuts the files, and `reader` reads them: `rows` and `rejects`.
"""
