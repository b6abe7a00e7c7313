"""Readers, splits and the fitted pipeline."""
