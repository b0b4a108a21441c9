"""The image with its journal: what is kept, what is read back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dnsd.control import files
from dnsd.control.files import ImageFiles
from dnsd.image import frames, layout
from dnsd.image.reading import ImageError
from dnsd.model import Stamp


def step(version: int, start: int, epoch: int = 1) -> tuple[Stamp, bytes]:
    stamp = Stamp(epoch, version, 0)
    return stamp, frames.encode(layout.F_RECORDS, stamp, Stamp(epoch, start, 0))


def test_the_journal_keeps_what_an_image_lacks(tmp_path: Path) -> None:
    made = ImageFiles(tmp_path)
    for version in range(1, 6):
        made.append(*step(version, version - 1))
    assert len(frames.read_journal(made.journal.read_bytes())) == 5
    made.put(b"image")
    made.cut(Stamp(1, 3, 0))
    kept = frames.read_journal(made.journal.read_bytes())
    assert [frame.stamp.version for frame in kept] == [4, 5]
    assert made.journal_size == os.path.getsize(made.journal)
    made.append(*step(6, 5))
    assert [f.stamp.version for f in frames.read_journal(made.journal.read_bytes())] == [4, 5, 6]
    made.cut(Stamp(2, 1, 0))  # another epoch: none of the old frames lead there
    assert made.frames == []
    made.close()


def test_a_torn_frame_stops_the_journal_until_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ImageFiles(tmp_path)
    made.append(*step(1, 0))
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:9]))
        with pytest.raises(OSError, match="part"):
            made.append(*step(2, 1))
    made.append(*step(3, 2))
    assert [f.stamp.version for f in frames.read_journal(made.journal.read_bytes())] == [1]
    made.cut(Stamp(1, 1, 0))
    assert [f.stamp.version for f in frames.read_journal(made.journal.read_bytes())] == [2, 3]
    made.close()


def test_a_journal_that_grows_for_ever_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "JOURNAL_MAX", 300)
    made = ImageFiles(tmp_path)
    for version in range(1, 8):
        made.append(*step(version, version - 1))
    assert (made.journal_size, made.broken, made.behind) == (sum(len(f) for _, f in made.frames), True, True)
    assert made.journal_size <= 300
    with pytest.raises(OSError, match="dropped"):
        made.cut(Stamp(1, 3, 0))  # frames between it and the journal are gone
    assert made.broken
    made.cut(Stamp(1, 7, 0))
    assert not made.behind


def test_no_image_and_a_bad_one(tmp_path: Path) -> None:
    assert ImageFiles(tmp_path).load() is None
    (tmp_path / "image").write_bytes(b"nothing of the kind")
    with pytest.raises(ImageError):
        ImageFiles(tmp_path).load()
