"""The runs of a `main.py tables` command: what they are, and what they left behind."""

import json

from parsed import parsed
from resumed import log_bytes

from utils.tables.options import Selection
from utils.tables.selection import select_runs


def runs_of(argv):
    return select_runs(Selection.of(parsed(argv)))


def by_hand(runs, call_main):
    """Trains the runs in this process; returns each folder's logs."""
    for run in runs:
        outcome = call_main(*run.command[2:])
        assert outcome.code == 0, outcome.err
    return logs_of(runs)


def logs_of(runs):
    return {run.path.name: log_bytes(run.path) for run in runs}


def record(run):
    return json.loads((run.path / "run.json").read_text())


def states(runs):
    return [run.state()[0] for run in runs]
