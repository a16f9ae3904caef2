"""What stands in the shards of a service: placement, names, memory, documents."""
