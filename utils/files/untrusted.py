"""Files that were not necessarily written by this program: read whole, but only if they are regular files of a sensible size."""

import os
import stat
from errno import EFBIG, EINVAL
from pathlib import Path

MIB = 1 << 20


def read_limited(path: str | Path, limit: int) -> bytes:
    """A file's bytes, links followed. Raises OSError if it cannot be read, is no regular file, or has more than `limit` bytes."""
    with open(path, "rb", opener=_open_regular) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(EFBIG, f"it is larger than {limit / MIB:g} MiB")
    return data


def read_tail(path: str | Path, size: int) -> bytes:
    """The last bytes of a file, at most `size`. Raises OSError as read_limited does."""
    with open(path, "rb", opener=_open_regular) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # a FIFO does not make it wait
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(EINVAL, "it is not a regular file")


def why_no_folder(path: str | Path, may_be_absent: bool = False) -> str | None:
    """Why a path is not a folder that can be looked at; None where it is one. may_be_absent: or where it can be made."""
    try:
        return None if stat.S_ISDIR(os.stat(path).st_mode) else "it is not a folder"
    except FileNotFoundError as error:
        return None if may_be_absent else reason(error)
    except (OSError, ValueError) as error:
        return reason(error)


def reason(error: OSError | ValueError) -> str:
    """What an error of the operating system says, without its number and path."""
    return getattr(error, "strerror", None) or str(error)
