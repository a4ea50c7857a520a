"""Submitting a run to a Ray cluster from anywhere: what travels, who takes it, and a handle on the job."""
