"""Metrics, one file per form of output."""
