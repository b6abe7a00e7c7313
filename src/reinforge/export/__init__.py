"""A bundle in the forms of others."""
