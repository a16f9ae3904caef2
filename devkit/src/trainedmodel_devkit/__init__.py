"""The development kit: real control plane, node, stores and model servers on one machine.

Tests and the demo run against the same parts that a cluster has (etcd, kube-apiserver, Triton,
MLServer, an S3 server); only the kubelet is ours, and does what a kubelet would do with the pods of
a service. Nothing here ships.
"""
