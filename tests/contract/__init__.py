"""What every registered component must keep to, by kind; a new one is tested as soon as it is registered."""
