"""Where runs are: the folders below a root, links followed."""

import os
import stat
from pathlib import Path

from utils import LAYERS_LOG, TEST_LOG, log_file
from utils.errors import reason
from utils.run.folder.record import REPLACED
from utils.run.paths import RECORD

LOG = log_file(TEST_LOG)
NOT_ENTERED = (REPLACED, RECORD, LOG, log_file(LAYERS_LOG))


def find_runs(root: Path) -> tuple[set[Path], set[Path], list[str]]:
    """The run folders below a root, those with a run.json and those with logs alone, and a line for what cannot be accessed.

    Links to folders are followed, each real folder is visited once: under its own path, where it has one below the root. Folders
    named replaced/ are skipped.
    """
    recorded, logged, problems = set(), set(), []
    seen: set[tuple[int, int]] = set()
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            entries = _entries(folder, seen)
        except OSError as error:
            problems.append(_cannot_be_looked_at(folder, error))
            continue
        names = {entry.name for entry in entries}
        if RECORD in names:
            recorded.add(folder)
        elif LOG in names:
            logged.add(folder)
        inner = []
        for entry in entries:
            path = folder / entry.name
            try:
                if entry.name not in NOT_ENTERED and _is_folder(entry, path):
                    (links if entry.is_symlink() else inner).append(path)
            except OSError as error:
                problems.append(_cannot_be_looked_at(path, error))
        folders += reversed(inner)
    return recorded, logged, problems


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing if the real folder was seen before. Raises OSError."""
    found = os.stat(folder)
    if (found.st_dev, found.st_ino) in seen:
        return []
    seen.add((found.st_dev, found.st_ino))
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str], path: Path) -> bool:
    """Whether it is a folder, or a link to one. Raises OSError, also for a link to nothing."""
    if not entry.is_symlink():
        return entry.is_dir()
    return stat.S_ISDIR(os.stat(path).st_mode)


def _cannot_be_looked_at(path: Path, error: OSError) -> str:
    return f"{path} cannot be accessed: {reason(error)}"
