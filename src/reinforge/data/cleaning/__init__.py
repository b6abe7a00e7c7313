"""What is mended or left out before learning, each by a policy of the recipe and with a report."""
