"""Tensor vocabulary shared by every room above: batches, ragged values, random generators, state trees, contracts."""
