"""A disk that is full, or fails, where a command prints: one line, no traceback."""

import errno
import os
import subprocess
import sys

import pytest
from conftest import PROJECT

from utils.errors import machine_failure

MUCH, LITTLE = ["tables", "run", "all", "--dry-run"], ["tables", "run", "fig3", "--dry-run", "--slice", "1/40"]


@pytest.mark.parametrize("arguments", [["tables", "status", "all"], MUCH, LITTLE], ids=" ".join)
def test_what_cannot_be_printed_is_one_line(arguments, tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, PROJECT / "main.py", *arguments]
        process = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.stderr == "main.py: error: cannot write: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("number", "beginning"),
    [(errno.ENOSPC, "cannot write"), (errno.EDQUOT, "cannot write"), (errno.EIO, "cannot read or write"), (errno.ENOENT, None)],
)
def test_a_disks_failures_are_told_from_other_errors(number, beginning):
    error = OSError(number, os.strerror(number), "a/file")
    assert machine_failure(error) == (beginning and f"{beginning}: {os.strerror(number)}: a/file")
