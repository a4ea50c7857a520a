"""What a run would do: `make` builds a plan, `comparison` makes it exact, `drafting` prepares what is published."""
