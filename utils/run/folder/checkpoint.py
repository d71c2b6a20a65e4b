"""Files of tensors: written atomically with a checksum, read with weights_only=True; checkpoints keep the previous one.

torch's own format: safetensors holds no optimizer or generator state.
"""

import errno
import hashlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import torch

from utils.errors import BadInput, first_line
from utils.files.look import is_file, look_at
from utils.files.regular import replacing
from utils.run.folder.finite import fault_of_checkpoint
from utils.run.paths import CHECKPOINTS

TRAILER = b"metaquant-sha256"  # then the digest; behind the end of the zip archive, where torch.load does not look
DIGEST_SIZE = 32
CHUNK = 1 << 20
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what fsync says of a folder where a file system has no such thing
ZIP_START = b"PK\x03\x04"


class _HashingFile:
    """Passes on what is written and hashes it. Keeps the first error for later: torch.save must not see one halfway."""

    def __init__(self, file: BinaryIO):
        self.file, self.hash, self.error = file, hashlib.sha256(), None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.hash.update(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass


def save_tensors(state: Any, path: Path, previous: Path | None = None) -> None:
    """torch.save and a checksum, as a file that is whole or as it was. previous, OSError: as of `replacing`."""
    with replacing(path, "xb", previous) as file:
        hashing = _HashingFile(file)
        torch.save(state, hashing)
        if hashing.error is not None:
            raise hashing.error
        file.write(TRAILER + hashing.hash.digest())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes renames in the folder last through a power failure, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def checksum_holds(path: Path) -> bool | None:
    """Whether the bytes are those that save_tensors wrote; None for a file without a checksum."""
    tail = len(TRAILER) + DIGEST_SIZE
    size = path.stat().st_size
    if size < tail:
        return None
    with open(path, "rb") as file:
        file.seek(size - tail)
        if file.read(len(TRAILER)) != TRAILER:
            return None
        expected = file.read()
        file.seek(0)
        actual, left = hashlib.sha256(), size - tail
        while left:
            data = file.read(min(CHUNK, left))
            actual.update(data)
            left -= len(data)
    return actual.digest() == expected


def _is_stored(path: Path) -> bool:
    """Whether a zip file's entries lie in it as they are, each in its own bytes: what is loaded is no larger than the file."""
    with open(path, "rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START:
            return True  # torch's older format
        with ZipFile(file) as archive:
            entries = archive.infolist()
    stored = all(entry.compress_type == ZIP_STORED and entry.file_size == entry.compress_size for entry in entries)
    return stored and sum(entry.file_size for entry in entries) <= path.stat().st_size


def load_tensors(path: str | Path, what: str, checksum_required: bool = False) -> Any:
    """torch.load on the CPU with weights_only=True; `what` begins the error.

    Raises BadInput for a file that is absent, holds anything but plain tensors, is compressed, or does not fit its checksum (or
    has none, where one is required).
    """
    path = Path(path)
    if not is_file(path, what):
        raise BadInput(f"{what}: there is no file {path}" + (", but something else of that name" if path.exists() else ""))
    try:
        whole = checksum_holds(path)
        if whole is False or (whole is None and checksum_required):
            raise BadInput(f"{what}: {path} is damaged: it does not fit its checksum")
        if not _is_stored(path):
            raise BadInput(f"{what}: {path} is not a file of torch.save: its entries are compressed, or overlap")
        with warnings.catch_warnings(action="ignore"):  # torch warns of its prototypes: sparse rows, quantized tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as error:  # torch.load raises whatever foreign bytes lead to
        why = first_line(error) if isinstance(error, OSError) else type(error).__name__  # pickle's advice: to trust the file
        raise BadInput(f"{what}: {path} is not a readable file of plain tensors ({why})") from None


class Checkpoints:
    """checkpoint.pth in a run's folder, and the one before it as checkpoint-previous.pth."""

    def __init__(self, folder: Path):
        self.newest, self.previous = (folder / name for name in CHECKPOINTS)
        self._is_damaged = False  # the newest, so that it must not take the place of the previous one

    def save(self, state: dict[str, Any]) -> None:
        """Writes the newest; the former newest, if it is whole, becomes the previous. Raises OSError and leaves both, whatever
        goes wrong.
        """
        save_tensors(state, self.newest, None if self._is_damaged else self.previous)
        self._is_damaged = False

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint whose numbers are finite; None where none was ever written.

        One that cannot be used is named on standard error. Raises BadInput if none can be used; deletes nothing.
        """
        problems = []
        if look_at(self.newest) is None and look_at(self.previous) is not None:
            problems.append(f"checkpoint: {self.newest} is not there")
        for path in (self.newest, self.previous):
            if look_at(path) is not None:
                try:
                    state = load_tensors(path, "checkpoint", checksum_required=True)
                except BadInput as error:
                    problems.append(str(error))
                    continue
                if fault := fault_of_checkpoint(state):
                    problems.append(f"checkpoint: {path} cannot be resumed: {fault}")
                    continue
                for problem in problems:
                    print(f"warning: {problem}; going on from {path}", file=sys.stderr)
                self._is_damaged = path == self.previous
                return state
        if problems:
            raise BadInput(
                f"no checkpoint is whole and finite: {'; '.join(problems)}; move the folder away or start over with --overwrite"
            )
        return None
