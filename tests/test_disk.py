"""Files that are whole or as they were, whatever stands in their way; reading and mapping within bounds."""

from __future__ import annotations

import os
from pathlib import Path
from threading import get_native_id

import pytest

from dnsd import disk


def test_replace_writes_whole_files_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "f"
    disk.replace(path, b"one")
    disk.replace(path, b"two", bytearray(b"three"))
    assert path.read_bytes() == b"twothree"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_a_mode_is_kept_but_for_the_umask(tmp_path: Path) -> None:
    disk.replace(tmp_path / "f", b"one", mode=0o604)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o604 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    disk.replace(path, b"one")
    with pytest.raises(TypeError):
        disk.replace(path, b"two", None)  # type: ignore[arg-type]

    def full(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        disk.replace(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["f"]


def test_a_head_that_is_known_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for when the rest is written; nothing takes the old file's place without it, or if the first of the
    two that are to reach the disk does not, which the kernel tells once."""
    path = tmp_path / "f"
    disk.replace(path, b"....", b"two", head=lambda: b"one")
    assert path.read_bytes() == b"one.two"
    with pytest.raises(ZeroDivisionError):
        disk.replace(path, b"...", b"other", head=lambda: bytes(1 // 0))
    calls = []

    def once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError("no space")

    monkeypatch.setattr(os, "fsync", once)
    with pytest.raises(OSError, match="no space"):
        disk.replace(path, b"...", b"other", head=lambda: b"any")
    assert path.read_bytes() == b"one.two"
    assert os.listdir(tmp_path) == ["f"]


def test_what_stands_in_the_way_is_replaced_and_never_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"secret")
    link.symlink_to(target)
    (tmp_path / f".link.{get_native_id()}").symlink_to(target)
    with pytest.raises(OSError, match="link"):
        disk.read(link)
    with pytest.raises(OSError, match="link"):
        disk.mapped(link)
    disk.replace(link, b"new")
    assert target.read_bytes() == b"secret"
    assert disk.read(link) == b"new"
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


def test_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert disk.read(path) is None
    with pytest.raises(FileNotFoundError):
        disk.mapped(path)
    disk.replace(path, b"four")
    assert disk.read(path, 4) == b"four" == bytes(disk.mapped(path))
    with pytest.raises(OSError, match="larger than 3"):
        disk.read(path, 3)
    with pytest.raises(OSError, match="directory"):
        disk.read(tmp_path)
    disk.replace(path)
    assert bytes(disk.mapped(path)) == b""


def test_a_fifo_or_a_directory_is_no_file_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        for call in (disk.read, disk.mapped):
            with pytest.raises(OSError, match=r"no file|directory"):
                call(path)


def test_a_mapping_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    disk.replace(path, b"one")
    before = disk.mapped(path)
    disk.replace(path, b"two")
    assert bytes(before) == b"one"
    assert bytes(disk.mapped(path)) == b"two"
