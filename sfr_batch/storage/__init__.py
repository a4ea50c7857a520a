"""Objects on a local disk or S3. The only package that opens files, except the config and what
libraries load.

`store` has the protocol `Store`, `local` and `s3` implement it, `stores.open_store` chooses one by URI: another kind of
store goes there. `inputs` reads the files of a corpus, `local_files` single files. Every guarantee of a table rests on
`Store.create` (create if absent).
"""
