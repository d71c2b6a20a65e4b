"""Where runs are: the folders below a root, links followed."""

import os
from pathlib import Path

from utils import LAYERS_LOG, log_file
from utils.errors import reason
from utils.run.folder.record import REPLACED

RECORD, LOG = "run.json", "test-acc.txt"


def find_runs(root: Path) -> tuple[set[Path], set[Path], list[str]]:
    """The run folders below a root, those with a run.json and those with logs alone, and a line for what cannot be looked at.

    Links to folders are followed, each real folder is visited once: under its own path, where it has one below the root. Folders
    named replaced/ are skipped.
    """
    recorded, logged, problems = set(), set(), []
    seen: set[tuple[int, int]] = set()
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(f"{folder} cannot be looked at: {reason(error)}")
            continue
        names = {entry.name for entry in entries}
        if RECORD in names:
            recorded.add(folder)
        elif LOG in names:
            logged.add(folder)
        inner = []
        for entry in entries:
            if entry.name in (REPLACED, RECORD, LOG, log_file(LAYERS_LOG)):
                continue
            path = folder / entry.name
            try:
                if not entry.is_symlink():
                    inner += [path] if entry.is_dir() else []
                elif os.path.isdir(path):
                    links.append(path)
                else:
                    os.stat(path)  # a link to a file, or to nothing
            except OSError as error:
                problems.append(f"{path} cannot be looked at: {reason(error)}")
        folders += reversed(inner)
    return recorded, logged, problems
