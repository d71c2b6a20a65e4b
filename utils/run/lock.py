"""One process per run folder: a POSIX lock on its run.lock, which ends with the process, however that ends.

Written by hand: filelock would lose the owner's name, because it truncates the file that it locks.
"""

import errno
import fcntl
import os
import platform
import struct
import sys
from pathlib import Path

from utils.errors import BadInput, InUse
from utils.text import printable

FILE = "run.lock"
HELD = (errno.EACCES, errno.EAGAIN)  # what lockf says where another process holds the lock


def is_locked(folder: Path) -> bool:
    """Whether another process works on a run's folder. Takes no lock itself, so that it is in no one's way."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY)
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
        path = folder / FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BadInput(f"{folder} cannot be worked on: {error}") from None
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
        path = folder / FILE
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in HELD:
                raise
            raise InUse(f"{folder} is in use by {self._read() or 'another process'} ({path})") from None
        try:
            if os.path.samestat(os.fstat(self._descriptor), path.stat()):
                return
        except FileNotFoundError:
            pass
        raise InUse(f"{folder} was moved by another process just now")

    def _read(self) -> str:
        return printable(os.pread(self._descriptor, 200, 0).decode(errors="replace").strip())

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        self._write("")
        os.close(self._descriptor)
