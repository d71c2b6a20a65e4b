"""Results: reading runs, statistics, the published numbers, verdicts, tables and pictures."""
