"""TrainedModel."""
