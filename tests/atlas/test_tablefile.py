"""Map table files, read back by other means than they were written."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.atlas import tablefile
from dnsd.image import layout
from dnsd.image.table import MapTable
from dnsd.steer.row import LEVEL_MS


def table(starts4: list[int], starts6: list[int], *, sites: int = 2, fine: bool = False) -> tablefile.Table:
    """Rows count up along the runs, so that each run has its own."""
    count = max(len(starts4), len(starts6)) + 1
    rows = np.arange(count * 2 * sites, dtype=np.uint8).reshape(count, 2 * sites) % 16
    return tablefile.Table(
        rows, np.array(starts4, np.uint32), np.arange(1, len(starts4) + 1, dtype=np.uint32),
        np.array(starts6, np.uint64), np.arange(1, len(starts6) + 1, dtype=np.uint32),
        np.array([0x0A000040, 0x0A00007F] if fine else [], np.uint32), np.array([2] if fine else [], np.uint32),
        np.array([0x2A000000000000F0, 0x2A000000000000FF] if fine else [], np.uint64),
        np.array([1] if fine else [], np.uint32))


def test_the_file_octet_by_octet(tmp_path: Path) -> None:
    path = tmp_path / "map"
    size = tablefile.write(path, table([0, 256], [0, 0x2A00 << 48], fine=True), atlas=77, made_ms=123456789012)
    data = path.read_bytes()
    assert len(data) == size
    assert data[:8] == b"DNSDMAP\0"
    assert struct.unpack_from("<8I", data, 8) == (1, 2, 3, 2, 2, 1, 1, zlib.crc32(data[layout.MAP_HEADER.size :]))
    assert struct.unpack_from("<3Q", data, 40) == (77, 123456789012, size)
    at = 64
    assert struct.unpack_from(f"<{len(LEVEL_MS)}I", data, at) == LEVEL_MS
    at += 4 * layout.LEVELS
    assert data[at : at + 12] == bytes(range(12))
    at += 16  # 12 octets of rows, aligned
    assert struct.unpack_from("<4I", data, at) == (0, 256, 1, 2)
    index4 = struct.unpack_from("<65537I", data, at + 16)
    assert index4 == (0, *[1] * 65536)


@given(st.sets(st.integers(1, (1 << 24) - 1), max_size=40), st.sets(st.one_of(
    st.integers(1, (1 << 64) - 1), st.integers(0x2 << 60, (0x4 << 60) - 1)), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_look_ups_find_the_run_and_the_index_its_neighbourhood(tmp_path: Path, four: set[int], six: set[int]) -> None:
    path = tmp_path / "map"
    starts4, starts6 = [0, *sorted(four)], [0, *sorted(six)]
    tablefile.write(path, table(starts4, starts6), atlas=1, made_ms=1)
    read = MapTable(path.read_bytes())
    for key in {0, (1 << 24) - 1, *starts4, *(start - 1 for start in starts4[1:])}:
        assert read.find4(key)[0] == bisect_right(starts4, key)
    for key in {0, (1 << 64) - 1, *starts6, *(start - 1 for start in starts6[1:])}:
        if key >> 48 != 0x2002 and key >> 32 not in (0x20010000, 0, 0x64FF9B):
            assert read.find6(key << 64)[0] == bisect_right(starts6, key)
    head, again = tablefile.read(path)
    assert (head["runs4"], head["runs6"]) == (len(starts4), len(starts6))
    assert again.starts4.tolist() == starts4
    assert again.starts6.tolist() == starts6
    sections = layout.map_sections(*(head[name] for name in ("sites", "rows", "runs4", "runs6", "fine4", "fine6")))
    index = np.frombuffer(path.read_bytes(), "<u4", layout.INDEX6_SLOTS + 1, sections["index6"][0]).tolist()
    for slot in {0, layout.INDEX6_SLOTS, *((start - (2 << 60)) >> 44 for start in six if start >> 61 == 1)}:
        assert index[slot] == bisect_right(starts6, (2 << 60) + (slot << 44)) - 1


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "map"
    tablefile.write(path, table([0], [0]), atlas=1, made_ms=1)
    good = path.read_bytes()
    for data, says in ((good[:-1], "no map table"), (good[:20], "shorter"), (b"X" + good[1:], "no map table"),
                       (good[:-1] + b"\x01", "damaged")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=says):
            tablefile.read(path)


def test_blocks() -> None:
    assert table([0], [0]).blocks() == (1, 1)
    assert table([0, 1 << 23], [0, 0x2A00 << 48]).blocks()[0] == 2
    assert table([0, 1], [0]).blocks()[0] == 1 + 24
