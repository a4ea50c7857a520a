"""What Prometheus can ask of a run on Ray: its metrics, and how they get there."""
