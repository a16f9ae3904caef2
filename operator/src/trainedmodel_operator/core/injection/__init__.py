"""Injection: the patch for a pod that asks for a puller.

`inject` is the decision, with its rules in order. `request` reads the labels and annotations,
`server_container` finds the model server, `volume` chooses the volume that both share, `sidecar`
renders the puller's container.
"""
