"""From a storage URI to a verified tree on the volume: one job for each model and revision."""
