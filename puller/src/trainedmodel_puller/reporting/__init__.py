"""What the puller tells others: the ModelReport, probes, `/status` and metrics."""
