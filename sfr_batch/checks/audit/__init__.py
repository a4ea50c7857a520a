"""What a table promises, checked: every byte of it read, nothing of it changed.

One finding a promise. A snapshot is fixed first and everything else is held against it, so that a run that goes on
meanwhile raises no alarm; what it has not published yet is told as an orphan. Memory is a few data files and one
partition of ids, whatever the table's size. Knows no Ray, no torch and no model.
"""
