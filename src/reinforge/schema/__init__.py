"""Typed fields of a model's inputs and outputs; free of torch."""
