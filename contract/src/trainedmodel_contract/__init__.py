"""The contract between operator and puller.

It declares once each format that the two programs exchange with each other or with the Kubernetes
API: the two API kinds (`trainedmodel`, `modelreport`), the ConfigMap entries and shards (`entry`,
`shard`), the identity of a served model (`revision`), and all names and reasons (`names`,
`reasons`). The CRD YAML under `crds/` is generated from these declarations (`crd`).

The package imports neither program and does no I/O, so a third party can write a puller with it.
"""
