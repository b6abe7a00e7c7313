"""Options of the components of this room, free of torch."""
