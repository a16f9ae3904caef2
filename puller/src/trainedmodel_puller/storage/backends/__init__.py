"""One module for each kind of store, and their shared parts."""
