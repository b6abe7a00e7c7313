"""Fitted operations: a closed, versioned registry of what a pipeline may do to a block of inputs or to a target."""
