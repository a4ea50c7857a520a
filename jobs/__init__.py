"""Scripts for `ray job submit` and for people: each is a few lines from arguments to a library call."""
