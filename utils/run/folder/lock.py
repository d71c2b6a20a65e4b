"""One process per run folder: POSIX locks on its run.lock and its logs, which end with the process, however that ends.

run.lock is held from the start; the recorder holds the logs, so that a folder whose run.lock was deleted by hand is still in use.
A process loses its lock on a file when it closes any descriptor of that file.

Written by hand: filelock would lose the owner's name, because it truncates the file that it locks.
"""

import fcntl
import os
import platform
import struct
import sys
from contextlib import suppress
from pathlib import Path

from utils import LAYERS_LOG, LOGS, VALIDATION_LOG, log_file
from utils.errors import BadInput, InUse
from utils.files.regular import hold, is_in_place, open_regular
from utils.files.text import printable

FILE = "run.lock"
LOCKED = (FILE, *map(log_file, (*LOGS, VALIDATION_LOG, LAYERS_LOG)))


def is_locked(folder: Path) -> bool:
    """Whether another process works on a run's folder. Takes no lock itself, so that it is in no one's way."""
    return any(_is_held(folder / name) for name in LOCKED)


def _is_held(path: Path) -> bool:
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        kind, start, length, whence, pid = fcntl.F_WRLCK, 0, 0, os.SEEK_SET, 0
        if sys.platform == "darwin":  # struct flock is laid out as the system likes
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("qqihh", start, length, pid, kind, whence))
            kind = struct.unpack("qqihh", answer)[3]
        else:
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("hhqqi4x", kind, whence, start, length, pid))
            kind = struct.unpack("hhqqi4x", answer)[0]
        return kind != fcntl.F_UNLCK
    except OSError:  # a file system without locks: who wants to work there is told so
        return False
    finally:
        os.close(descriptor)


class Lock:
    """The lock of a run's folder, from its making to `release`; the file names host and process for others' messages.

    left_behind: who held it and did not release it. Raises InUse where another process holds it, BadInput where there can be no
    lock.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        try:
            self._descriptor = open_regular(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise BadInput(f"{folder} cannot be used: {error}") from None
        try:
            self._take(folder)
            self.left_behind = self._read()
            self._write(f"process {os.getpid()} on {platform.node()}\n")
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, OSError):
                raise BadInput(f"{folder} cannot be locked: {error}") from None
            raise

    def _take(self, folder: Path) -> None:
        if not hold(self._descriptor):
            raise InUse(f"{folder} is in use by {self._read() or 'another process'} ({self.path})")
        if not is_in_place(*self.file):
            raise InUse(f"{folder} was just moved by another process; rerun the same command")
        for name in LOCKED[1:]:
            if _is_held(folder / name):
                raise InUse(f"{folder} is in use: another process writes {folder / name}, although {FILE} was not locked")

    @property
    def file(self) -> tuple[Path, int]:
        """run.lock by its path and the descriptor that is locked."""
        return self.path, self._descriptor

    def _read(self) -> str:
        return printable(os.pread(self._descriptor, 200, 0).decode(errors="replace").strip())

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        with suppress(OSError):  # its file system may have gone
            self._write("")
        with suppress(OSError):
            os.close(self._descriptor)
