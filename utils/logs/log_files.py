"""The text files that a run adds rows to: locked, hashed as they grow, and cut back to a checkpoint when the run is resumed."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils import log_file
from utils.errors import BadInput, InUse
from utils.files.regular import hold, is_in_place, open_regular


class LogFiles:
    """The open log files of a run's folder, by the names of the logs; what they hold already stays.

    Raises NotRegular for a link or a folder in a file's place, and InUse where another process writes one of them.
    """

    def __init__(self, folder: Path, names: Iterable[str]):
        self._files = {
            name: open(folder / log_file(name), "a+", encoding="utf-8", newline="", opener=open_regular) for name in names
        }
        self._lock()
        self._hashes = {name: hashlib.sha256(self._first_bytes(name, file.tell())) for name, file in self._files.items()}

    def _lock(self) -> None:
        for path, descriptor in self.opened:
            with suppress(OSError):  # a file system without locks
                if not hold(descriptor):
                    raise InUse(f"{path} is in use by another process")

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def opened(self) -> list[tuple[Path, int]]:
        """The files by their paths and descriptors."""
        return [(Path(file.name), file.fileno()) for file in self._files.values()]

    @property
    def in_place(self) -> bool:
        """Whether no file was deleted, moved or replaced since it was opened."""
        return all(is_in_place(path, descriptor) for path, descriptor in self.opened)

    @property
    def sizes(self) -> dict[str, int]:
        """Log -> bytes, those included that are not yet flushed."""
        return {name: file.tell() for name, file in self._files.items()}

    def write(self, name: str, rows: str) -> None:
        """Adds rows, each with the end of its line, to a log."""
        self._files[name].write(rows)
        self._hashes[name].update(rows.encode())

    def flush(self) -> None:
        """Hands what is written so far to the operating system."""
        for file in self._files.values():
            file.flush()

    def state_dict(self) -> dict[str, dict]:
        """Each file's length and SHA-256, for `cut_back`; the files are safely on disk by then."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {"log_sizes": self.sizes, "log_hashes": {name: found.hexdigest() for name, found in self._hashes.items()}}

    def cut_back(self, sizes: Mapping[str, int], hashes: Mapping[str, str]) -> None:
        """Cuts every file back to its first `sizes[name]` bytes.

        hashes: their SHA-256; the checkpoints of earlier versions have none. Raises BadInput, and changes no file, where there
        are other logs than these, or where a file's first bytes are not those.
        """
        if sizes.keys() != self._files.keys():
            there, here = (" and ".join(names) for names in (sizes, self._files))
            raise BadInput(f"{self.opened[0][0].parent}: its checkpoint has the logs {there}, and not {here}")
        self._hashes = {name: self._checked_hash(name, size, hashes.get(name)) for name, size in sizes.items()}
        for name, file in self._files.items():
            file.truncate(sizes[name])
            file.seek(sizes[name])

    def _checked_hash(self, name: str, size: int, expected: str | None) -> Any:
        """The hash of a file's first `size` bytes, to be added to. Raises BadInput where they are not the expected ones."""
        file = self._files[name]
        if file.tell() < size:
            lost = f"it is {file.tell()} bytes long and was {size} at the checkpoint"
            raise BadInput(f"{file.name} has lost rows: {lost}; restore it, or --overwrite to start over")
        rows = self._first_bytes(name, size)
        found = hashlib.sha256(rows)
        if found.hexdigest() != (expected or found.hexdigest()) or (rows and not rows.endswith(b"\n")):
            changed = f"its first {size} bytes are not those that it had at the checkpoint"
            raise BadInput(f"{file.name} has changed: {changed}; restore it, or --overwrite to start over")
        return found

    def _first_bytes(self, name: str, size: int) -> bytes:
        """Read by the descriptor that is open: closing another one of the file would release its lock."""
        return os.pread(self._files[name].fileno(), size, 0)

    def close(self) -> None:
        """Closes the files, and so releases their locks."""
        for file in self._files.values():
            file.close()
