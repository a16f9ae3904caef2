"""The status of a TrainedModel, from what the pods report."""
