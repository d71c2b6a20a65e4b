"""What can be wrong with a lock, apart from being held (tests/resume: by real processes)."""

import errno
import fcntl

import pytest

from utils.errors import BadInput, InUse
from utils.run.folder.lock import Lock, is_locked


def test_a_file_system_without_locks_is_not_called_in_use(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    Lock(tmp_path).release()
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(BadInput, match=r"cannot be locked: .*No locks available") as error:
        Lock(tmp_path)
    assert not isinstance(error.value, InUse)
    assert not is_locked(tmp_path)


def test_a_folder_that_is_moved_away_while_it_is_locked_is_left(tmp_path, monkeypatch):
    folder, locked = tmp_path / "run", fcntl.lockf
    folder.mkdir()

    def move_and_lock(*arguments):
        folder.rename(tmp_path / "replaced")
        folder.mkdir()
        (folder / "run.lock").touch()
        return locked(*arguments)

    monkeypatch.setattr(fcntl, "lockf", move_and_lock)
    with pytest.raises(InUse, match="moved"):
        Lock(folder)


def test_what_an_owner_left_behind_is_told(tmp_path):
    (tmp_path / "run.lock").write_text("process 1 on \x1b[31mthere\n")
    lock = Lock(tmp_path)
    assert lock.left_behind == r"process 1 on \x1b[31mthere"
    lock.release()
    assert Lock(tmp_path).left_behind == ""
