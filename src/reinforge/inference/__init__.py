"""Prediction and generation."""
