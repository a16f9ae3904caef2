"""Leader election by a Lease, and the fence around writes."""
