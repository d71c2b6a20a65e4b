"""A run's folder: its lock, its record run.json, its checkpoints, and the process at work on it."""
