"""Decisions only: no event loop, clock, randomness, system call or client.

Everything is a pure function over frozen values, so a decision can be read, tested and repeated
without a cluster. `plan` is the table of contents. `placement` and `documents` decide the content
of the ConfigMaps, `status` the text for users, `pacing` the times of writes.
"""
