"""Bundles behind a message queue."""
