"""The puller's output: the ModelReport, probes, `/status` and metrics."""
