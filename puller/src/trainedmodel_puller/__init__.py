"""The puller: loads the models of a folder of entries into one model server.

It is a level-triggered loop. Each pass reads the mounted entries (`control.config_reader`), the
model volume (`volume`) and the model server (`drivers`). Pure functions (`core`) decide the
actions, and the rest of the package carries them out.

The package also runs outside Kubernetes: it writes a ModelReport only if it has the identity of a
pod (`reporting`).
"""
