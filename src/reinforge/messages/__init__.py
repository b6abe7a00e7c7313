"""English and Chinese from one gettext catalogue."""
