"""Quantizers, data, logs and helpers by the notebook's names; in the rooms below: run, tables, report, benchmark, cli."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MAIN = PROJECT / "main.py"
