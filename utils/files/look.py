"""Looking at files before they are opened."""

import os
import stat
from pathlib import Path

from utils.errors import BadInput, reason, shortened


def look_at(path: str | Path, flag: str = "") -> os.stat_result | None:
    """What the system knows of a path's file or folder; None where there is none.

    Raises BadInput, which begins with the flag, where it may not be looked at.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a folder without permission, a loop of links, a name that is too long
        raise BadInput(f"{f'{flag}: ' if flag else ''}{shortened(str(path))} cannot be accessed: {reason(error)}") from None


def is_file(path: str | Path, flag: str = "") -> bool:
    """Whether there is a regular file (or a link to one) of this path. Raises BadInput as look_at does."""
    found = look_at(path, flag)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: str | Path, flag: str = "") -> bool:
    """Whether there is a folder (or a link to one) of this path. Raises BadInput as look_at does."""
    found = look_at(path, flag)
    return found is not None and stat.S_ISDIR(found.st_mode)


def why_no_folder(path: str | Path, may_be_absent: bool = False) -> str | None:
    """Why a path is not a folder that can be looked at; None where it is one, or, with may_be_absent, nothing is there."""
    try:
        return None if stat.S_ISDIR(os.stat(path).st_mode) else "it is not a folder"
    except FileNotFoundError as error:
        return None if may_be_absent else reason(error)
    except (OSError, ValueError) as error:
        return reason(error)
