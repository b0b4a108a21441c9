"""The one owner of offsets: structures are what their fields say, aligned, and of the sizes that are on disk."""

from __future__ import annotations

import pytest

from dnsd.image import layout
from dnsd.image.layout import Flat

SIZES = {"HEADER": 64, "SECTION": 24, "ZONE": 24, "NODE": 40, "RRSET": 36, "RECORD_SLOT": 16, "MAP_REF": 16,
         "RECORD": 40, "ENDPOINT": 48, "MAP_HEADER": 64, "FRAME": 56, "ITEM": 8}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    """A size that changes is another layout: `layout.LAYOUT` must change with it."""
    flat: Flat = getattr(layout, name)
    assert flat.size == SIZES[name]
    assert layout.LAYOUT == 1


@pytest.mark.parametrize("name", SIZES)
def test_fields_lie_where_they_are_said_to(name: str) -> None:
    flat: Flat = getattr(layout, name)
    for field, kind in flat.fields:
        width = int(kind[1:]) // 8 if kind[0] == "u" else int(kind[:-1])
        ones: int | bytes = (1 << 8 * width) - 1 if kind[0] == "u" else b"\xff" * width
        zeros = {other: 0 if k[0] == "u" else b"" for other, k in flat.fields}
        data = flat.pack(**{**zeros, field: ones})
        at = flat.at[field]
        assert data == bytes(at) + b"\xff" * width + bytes(flat.size - at - width)
        assert flat.read(b"xx" + data, 2)[field] == ones


def test_pack_wants_every_field_and_no_other() -> None:
    flat = Flat("u32 one", "u16 two")
    assert flat.pack(one=1, two=2) == b"\1\0\0\0\2\0"
    with pytest.raises(ValueError, match=r"fields differ: \['two'\]"):
        flat.pack(one=1)
    with pytest.raises(ValueError, match=r"fields differ: \['three'\]"):
        flat.pack(one=1, two=2, three=3)


def test_fields_are_naturally_aligned() -> None:
    with pytest.raises(ValueError, match="two is not aligned at 2"):
        Flat("u16 one", "u32 two")


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 0, 0), (3, 5, 7, 9, 1, 3), (64, 70_000, 1_000_000, 500_000, 9, 9)])
def test_sections_of_a_map_follow_each_other_aligned(counts: tuple[int, int, int, int, int, int]) -> None:
    sections = layout.map_sections(*counts)
    ends = layout.MAP_HEADER.size
    for name, (offset, count, code) in sections.items():
        assert offset % 8 == 0, name
        assert 0 <= offset - ends < 8
        ends = offset + count * {"B": 1, "I": 4, "Q": 8}[code]
    assert sections["rows"][1] == counts[0] * counts[1] * 2
    assert sections["index4"][1] == 65_537
    assert sections["index6"][1] == 131_073
