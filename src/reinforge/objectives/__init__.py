"""What is optimised, given an experience."""
