"""Runs main.py's commands in forked processes of its own, so that a test can kill them and need not wait for imports.

Reads a line of JSON per command from standard input, with what conftest.py's Server.start takes: {"argv": [...], "log": path,
"file_size": bytes or null, "moment": n or null, "test_batch": n or null}; answers with a line "pid N" when it has begun and a
line "exit N" (negative: the signal that ended it) when it is over.
"""

import itertools
import json
import os
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch.fx.experimental.symbolic_shapes  # what torch.autograd.grad imports
import torch.utils.tensorboard  # noqa: F401 (both so that no run has to)
from small_main import SMALL_MAIN

from main import main
from utils import MAIN
from utils.batches import ResidentLoader
from utils.run.folder.checkpoint import _HashingFile

SOME = 100_000  # bytes; every checkpoint here has more


def kill_at(moment):
    """Has this process killed at a checkpoint's n-th moment: in the middle of its bytes, before its fsync, before a rename."""
    moments = itertools.count(1)
    write, fsync, replace = _HashingFile.write, os.fsync, Path.replace

    def now(what, path):
        if "checkpoint" in Path(path).name and next(moments) == moment:
            print(f"killed {what} {Path(path).name}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def writing(self, data):
        before = self.file.tell()
        size = write(self, data)
        if before < SOME <= self.file.tell():
            self.file.flush()
            now("in the middle of", self.file.name)
        return size

    def syncing(descriptor):
        now("before fsync of", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def replacing(self, target):
        now("before the rename of", self)
        return replace(self, target)

    _HashingFile.write, os.fsync, Path.replace = writing, syncing, replacing


def terminate_at(test_batch):
    """Sends this process SIGTERM before the n-th batch of its first evaluation."""
    batches = itertools.count(1)
    take = ResidentLoader.take

    def taking(self, count):
        if not self.training and next(batches) == test_batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, count)

    ResidentLoader.take = taking


def run(argv, log, file_size, moment, test_batch):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if moment is not None:
        kill_at(moment)
    if test_batch is not None:
        terminate_at(test_batch)
    try:
        code = main(argv, SMALL_MAIN if argv[0] == "tables" else MAIN)
    except SystemExit as stop:
        code = stop.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


ended = None
for line in sys.stdin:
    if ended is not None:
        os.waitpid(ended, 0)
    command = json.loads(line)
    pid = os.fork()
    if pid == 0:
        run(**command)
    print(f"pid {pid}", flush=True)
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # left a zombie, so that its pid stays its own until the next line
    print(f"exit {end.si_status if end.si_code == os.CLD_EXITED else -end.si_status}", flush=True)
    ended = pid
