"""Decisions, and nothing else: no event loop, clock, chance, system or client in here.

Everything is a pure function over frozen values, so that a decision can be read, tested and
repeated without a cluster: `plan` is the table of contents, `placement` and `shards` decide what
the ConfigMaps hold, `status` what people are told, `pacing` when either may be written.
"""
