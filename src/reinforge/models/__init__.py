"""Encoders, bodies, heads, composed models and the decoder."""
