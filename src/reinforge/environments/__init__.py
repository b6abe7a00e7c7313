"""Vector environments behind one tested adapter."""
