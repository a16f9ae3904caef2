"""The content of a service's shards: placement, names, memory, documents."""
