"""Bundles made smaller or faster, and measured before and after."""
