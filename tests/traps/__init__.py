"""Traps of correctness: each named, with the tests that stand before it, and a way to spring it."""
