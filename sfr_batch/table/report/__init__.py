"""The report of a run as a value: found on storage, shown as a page, as lines and as JSON."""
