"""The operator: turns TrainedModels into per-model ConfigMap entries and reports back the truth.

Functional core, imperative shell: `core/` decides and does no I/O; the other packages read, act and
repeat. One pass is for one *service* (a namespace, and the name of running pods):

    gather -> plan -> write shards -> annotate pods -> hand statuses to their own queue

Where to look:

    core            a wrong decision
    api             a wrong request, a wrong reading of an answer, rates and retries of requests
    watch           an event that kopf delivers; it only enqueues the service
    reconcile       a missed, late or doubled pass; a write that is refused; a late status
    leadership      two leaders, or none
    webhook         a pod without its puller; certificates
    observability   logs, metrics, Events, probes
    cli, settings   flags and variables

The invariants O1 to O11, with what guards each, are in `docs/architecture.md`.
"""
