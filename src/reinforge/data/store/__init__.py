"""Prepared data on disk, mapped into memory and never copied."""
