"""The injection webhook: its server, its certificates."""
