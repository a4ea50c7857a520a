"""The config of a job: one YAML file, strict.

`settings` is the reference of every field; `loading` reads a file and explains its errors.
"""
