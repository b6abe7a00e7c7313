"""The loop: updates, precision, schedules, stopping, checkpoints, distribution."""
