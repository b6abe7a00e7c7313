"""Models of scikit-learn: fitted at once, then kept as plain tensors."""
