"""The operator: turns TrainedModels into per-model ConfigMap entries and reports back the truth.

Functional core, imperative shell. `core/` decides and does no I/O; the modules beside it read, act
and repeat. One pass serves one *service* (a namespace and the name of a running service):

    gather -> plan -> write shards -> annotate pods -> hand statuses to their own queue

Where to look: a wrong decision is in `core/`; a wrong request in `kube`; a missed, late or doubled
pass in `workqueue` or `resync`; a late status in `statuswriter`; anything about kopf in `handlers`
and `app`.

Invariants, each with tests that carry its number: O1 never write from a partial view, O2 equal
input gives equal bytes, O3 one writer for each field, O4 one bad TrainedModel never delays another,
O5 never delete a user's object, O6 an absent operator blocks nobody, O7 a missing service is
`Pending` with a reason, O8 a shard is never deleted while its service has pods.
"""
