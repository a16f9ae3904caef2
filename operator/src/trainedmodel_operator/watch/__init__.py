"""Watches of the API, which only enqueue services to reconcile."""
