"""Classic models."""
