"""Files in folders that may have come from elsewhere: only regular files are opened, and no link is followed.

Imports nothing of the project, so that a Ray worker can be sent it.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

HELD = (errno.EACCES, errno.EAGAIN)  # what lockf says where another process holds the lock


class NotRegular(OSError):
    """Raised where something else lies in the place of a regular file."""


def _require(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in KINDS if is_kind(mode)), "something else")
        raise NotRegular(f"{path} is {kind}, not a regular file: remove it, or put the file itself there")


def require_regular(path: str | Path) -> None:
    """Raises NotRegular for a folder, a FIFO, a device or a link; a file that is not there is none of them."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    _require(mode, path)


def open_regular(path: str | Path, flags: int) -> int:
    """A descriptor of a regular file, for open's `opener`. Raises NotRegular; follows no link; never waits."""
    require_regular(path)  # before it is opened: opening a device may already do something
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW, 0o666)
    try:
        _require(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_new(path: Path, mode: str) -> IO:
    """A new file to write, mode "x" or "xb"; an old regular file of that name is removed first. Raises NotRegular."""
    require_regular(path)
    path.unlink(missing_ok=True)
    return open(path, mode, opener=open_regular)


def unfinished(path: Path) -> Path:
    """The name that a file has while `replacing` writes it."""
    return path.with_name(path.name + ".tmp")


@contextmanager
def replacing(path: Path, mode: str, previous: Path | None = None) -> Iterator[IO]:
    """A new file to write, mode "x" or "xb", which takes the name `path` once it is whole and on the disk.

    previous: the name that an older file of this name is kept under. Raises OSError, for example on a full disk or where the
    folder has gone, and NotRegular; whatever is raised, in the body too, the older files are as they were.
    """
    temporary = unfinished(path)
    opened = open_new(temporary, mode)
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_in_place(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to the file that is open as `descriptor`: it was not deleted, moved or replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def hold(descriptor: int) -> bool:
    """Locks an open file until it is closed; False where another process holds it. Raises OSError where there are no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            raise
        return False
    return True
