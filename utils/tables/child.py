"""A run in a process of its own. Imports nothing of torch, so that a Ray worker that calls it starts at once."""

import os
import signal
import subprocess
import time
from pathlib import Path

from utils.files.regular import open_regular

GRACE = 60.0  # seconds that a child has for its last checkpoint after SIGTERM
POLL = 0.1  # seconds


def start_child(command: list[str], log: Path, folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Starts a command in a folder, its output appended to a log file, the environment's changes over this process's.

    In a session of its own, so that a terminal's Ctrl-C reaches this process alone, which then stops its children gently.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", opener=open_regular) as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | environment,
            start_new_session=True,
        )


def stop_child(process: subprocess.Popen) -> int:
    """Waits for a child that was sent SIGTERM, and kills it where it takes longer than GRACE; returns its exit code."""
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def run_child(command: list[str], log: Path, folder: Path, environment: dict[str, str]) -> int:
    """Runs a command to its end; returns its exit code, negative for the signal that ended it.

    For a Ray task, in a worker's main thread: interrupted, it stops the command gently first.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker that was started in the background ignores it
    process = start_child(command, log, folder, environment)
    try:
        while process.poll() is None:
            time.sleep(POLL)  # an interrupt reaches Python code, not a blocking wait
        return process.returncode
    except BaseException:
        process.terminate()
        stop_child(process)
        raise
