"""Checks that print PASS, FAIL or SKIP: `audit` for a table, `verify` for a model."""
