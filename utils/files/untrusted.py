"""Files that were not necessarily written by this program: only regular files are read, and no more bytes than a limit.

Links are followed: a user may put one in the place of a file. Where none may be, see utils/files/regular.py.
"""

import os
import stat
from errno import EFBIG, EINVAL
from pathlib import Path

MIB = 1 << 20


def read_limited(path: str | Path, limit: int) -> bytes:
    """A file's bytes, links followed. Raises OSError if it cannot be read, is no regular file, or has more than `limit` bytes."""
    with open(path, "rb", opener=_open_through_links) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(EFBIG, f"it is larger than {limit / MIB:g} MiB")
    return data


def read_tail(path: str | Path, size: int) -> bytes:
    """The last bytes of a file, at most `size`. Raises OSError as read_limited does."""
    with open(path, "rb", opener=_open_through_links) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def _open_through_links(path: str, flags: int) -> int:
    _require_regular(os.stat(path))  # before it is opened: opening a device may already do something
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO that has come in between does not make it wait
    try:
        _require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(EINVAL, "it is not a regular file")
