"""A run: its settings, its parts, its folder and record, and its epochs."""
