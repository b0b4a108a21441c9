"""The atlas file: what is written is read, damage is noticed."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from dnsd.atlas import build, store
from tests.atlas.samples import directory


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    build.build(directory(tmp_path / "d"), tmp_path / "atlas")
    return tmp_path / "atlas"


def test_every_damaged_octet_is_noticed(atlas: Path) -> None:
    good = (atlas / store.FILE).read_bytes()
    assert len(good) % 8 == 0
    head = range(len(store.MAGIC) + 4, store.HEAD.at["made"])
    for at in {*head, *range(store.HEAD.size, len(good), 61), len(good) - 1}:
        (atlas / store.FILE).write_bytes(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
        with pytest.raises(store.AtlasError):
            store.open_atlas(atlas)


@pytest.mark.parametrize(("data", "says"), [
    (b"", "cannot be mapped"), (b"DNSDATL\0", "shorter than its head"), (b"x" * 200, "no atlas of layout"),
])
def test_what_is_no_atlas(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / store.FILE).write_bytes(data)
    with pytest.raises(store.AtlasError, match=says):
        store.open_atlas(tmp_path)


def test_a_missing_atlas_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(store.AtlasError, match="dnsd data build"):
        store.open_atlas(tmp_path)


def test_a_reader_keeps_what_it_mapped(atlas: Path, tmp_path: Path) -> None:
    reader = store.open_atlas(atlas)
    before = reader.origin(ip_address("10.2.0.1"))
    build.build(directory(tmp_path / "other", asn="10.0.0.0/8\t65000\n"), atlas)
    assert reader.origin(ip_address("10.2.0.1")) == before
    assert store.open_atlas(atlas).origin(ip_address("10.2.0.1")).asn == 65000
