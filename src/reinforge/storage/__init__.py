"""Folders that are committed whole or not at all: manifests, digests, safe JSON; free of torch."""
