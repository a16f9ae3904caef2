"""Injection: what a pod that asks for a puller becomes.

`inject` is the decision, its rules in order; `request` reads what the pod asks for, `serving` finds
the container that is the model server, `volume` decides which volume both share, `puller` renders
the sidecar.
"""
