"""The puller: makes one model server serve what a folder of entries asks for.

A level-triggered loop over three things that it reads afresh: the mounted entries
(`control.config_reader`), the model volume (`volume`), and the model server (`drivers`). What to do
about the differences is decided by pure functions (`core`); the rest of the package carries the
decisions out.

The package is not tied to Kubernetes: the ModelReport is written only where a pod's identity is
given (`reporting`).
"""
