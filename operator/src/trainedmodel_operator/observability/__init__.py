"""Logs, metrics, Events and probes."""
