"""Decisions, and nothing else: no loop, no clock, no chance, no file, no network."""
