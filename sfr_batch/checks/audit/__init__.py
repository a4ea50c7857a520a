"""The audit: checks every promise of a table by reading every byte of a snapshot. Changes nothing.

There is one finding for each promise. The snapshot is chosen first and everything is compared with it, so that a
concurrent run causes no failure; what that run has not published yet counts as orphans. Memory holds a few data files
and one partition of ids, whatever the size of the table. Knows no Ray, no torch and no model.
"""
