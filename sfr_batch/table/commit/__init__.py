"""Writing a table: commit a split, publish a snapshot, lease, sweep, expire, compact. Every step may be interrupted."""
