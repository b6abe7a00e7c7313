"""Training batches changed at random: each row by numbers that are a function of (seed, epoch, row, place)."""
