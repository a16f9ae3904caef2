"""From a storage URI to a verified tree on the volume: one job a model and revision."""
