"""One file per form in which tables come."""
