"""Reading a table: snapshots, scans, filters, exports, search. Writing is in `commit`."""
