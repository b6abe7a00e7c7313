"""The verbs, as functions over the nouns."""
