"""What a run will cost, before it costs anything: a sample of its splits, a rate, hours and money."""
