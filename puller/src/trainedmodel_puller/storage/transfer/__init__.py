"""Moving bytes: parallel streams, resuming, fair shares of the network."""
