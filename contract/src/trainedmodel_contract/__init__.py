"""The words that operator and puller share.

Everything that crosses the line between the two programs, or between them and the Kubernetes API,
is declared here once: the two API kinds (`trainedmodel`, `modelreport`), the ConfigMap entries and
shards (`entry`, `shard`), the identity of what is served (`revision`), and the names of it all
(`names`, `reasons`). The CRD YAML under `crds/` is generated from these declarations (`crd`).

The package knows neither program. It does no I/O: a third party could write a puller against it.
"""
