"""Files from elsewhere: only regular ones are opened, also through links, and not more is read than a limit."""

import os

import pytest

from utils.files.untrusted import MIB, read_limited, read_tail


@pytest.fixture
def opened(monkeypatch):
    """The paths that are opened."""
    paths, real = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: paths.append(str(path)) or real(path, *rest))
    return paths


@pytest.mark.parametrize("read", [lambda path: read_limited(path, MIB), lambda path: read_tail(path, MIB)])
def test_a_device_a_folder_or_a_fifo_is_not_even_opened(read, opened, tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    paths = [str(tmp_path / "link"), "/dev/zero", str(tmp_path / "fifo"), str(tmp_path)]
    for path in paths:
        with pytest.raises(OSError, match="it is not a regular file"):
            read(path)
    assert not {*paths} & {*opened}


def test_links_are_followed_and_limits_kept(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert read_limited(tmp_path / "link", 10) == b"0123456789"
    assert read_tail(tmp_path / "link", 3) == b"789"
    with pytest.raises(OSError, match="it is larger than"):
        read_limited(tmp_path / "link", 9)
    with pytest.raises(FileNotFoundError):
        read_limited(tmp_path / "absent", 9)
