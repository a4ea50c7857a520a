"""The run; the only package that imports ray: `runner` is the table of contents, `stages` what happens to a split."""
