"""A report's folder: which files the report before has written there, so that none of them is left beside a later one."""

import json
from pathlib import Path

from utils.files import strict_json
from utils.files.untrusted import MIB, read_limited

LIST = "files.json"  # the names of a report's files but for this one
LIST_LIMIT = MIB
SUFFIXES = {".csv", ".html", ".md", ".png", ".svg", ".tex", ".xz"}  # of a report's files


def move_report(written: Path, folder: Path) -> None:
    """Moves a report's files from one folder into another, with their list; removes those on the list that was there before.

    A link is removed or replaced, not followed. Raises OSError where that cannot be done.
    """
    names = sorted(path.name for path in written.iterdir())
    (written / LIST).write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    for name in _listed(folder / LIST) - {*names}:
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink()
    for name in (*names, LIST):
        (written / name).replace(folder / name)


def _listed(path: Path) -> set[str]:
    """The names of files that a list holds, as far as they are plain ones of a report's kinds; none where it cannot be read.

    The list may come from elsewhere: a name with a folder in it is not one of a file in the list's folder.
    """
    try:
        names = strict_json.loads(read_limited(path, LIST_LIMIT).decode())
    except (OSError, ValueError):
        return set()
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return {name for name in texts if name.isprintable() and Path(name).name == name and Path(name).suffix in SUFFIXES}
