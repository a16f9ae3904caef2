"""The Kubernetes API: reads, writes and their errors."""
