"""The demo: the whole system on one machine, from `kubectl apply` to answered predictions.

It is a claim that anybody can check in a minute, so nothing in it is staged: API server, operator,
pullers, model servers and store are the real ones, and each step looks at the outcome (an answer of
a server, a file, a condition) before the next one begins. A step that did not happen ends the demo
with a sentence and the logs.

    catalog   the models: sample manifest, files in the store, a question and its right answer
    stage     what runs: brought up in parallel, taken down in order
    board     the TrainedModels as the API server tells of them, and waiting for them
    traffic   constant requests, and what came of them
    actions   what is done and proved, as data
    scenario  the order of the actions, in words
    show      a live table on a terminal, timestamped lines elsewhere
    run       one performance: signals, failures, exit status

Tests may use all but the last three.
"""

from trainedmodel_devkit.demo.run import run_demo
from trainedmodel_devkit.demo.stage import Stage

__all__ = ["Stage", "run_demo"]
