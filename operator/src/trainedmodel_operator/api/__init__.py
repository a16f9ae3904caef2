"""The Kubernetes API as the operator uses it: reads, writes, and their errors."""
