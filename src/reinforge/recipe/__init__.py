"""What to do, as typed data: sections, loading, overrides, errors; free of torch."""
