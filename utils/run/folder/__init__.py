"""A run's folder: its name, its lock, its record run.json, its checkpoints, and the process at work on it."""
