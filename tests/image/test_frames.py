"""Frames and the journal: round trips, every torn length, every damaged octet."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.image import frames, layout
from dnsd.image.frames import Frame
from dnsd.model import Stamp

u64 = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)
any_items = st.lists(st.tuples(u32, st.binary(max_size=60)), max_size=5)
any_frame = st.builds(
    lambda kind, epoch, to, start, items: Frame(kind, Stamp(epoch, *to), Stamp(epoch, *start), items),
    st.sampled_from([layout.F_RECORDS, layout.F_MAP, layout.F_REMAP, layout.F_ACK]), u64, st.tuples(u64, u64),
    st.tuples(u64, u64), any_items)

ONE = Frame(layout.F_RECORDS, Stamp(9, 8, 7), Stamp(9, 7, 7), [(3, b"three"), (70_000, b""), (5, b"\xaa" * 300)])
TWO = Frame(layout.F_MAP, Stamp(9, 8, 8), Stamp(9, 8, 7), [(0, b"map-0")])
THREE = Frame(layout.F_REMAP, Stamp(9, 9, 8), Stamp(9, 8, 8), [])
JOURNAL = [ONE, TWO, THREE, ONE]


@given(any_frame, st.binary(max_size=20), st.booleans())
def test_round_trip(frame: Frame, behind: bytes, view: bool) -> None:
    data = frames.encode(*frame)
    assert len(data) == layout.FRAME.size + sum(layout.ITEM.size + len(body) for _, body in frame.items)
    whole = b"front" + data + behind
    assert frames.decode(memoryview(whole) if view else whole, 5) == (frame, 5 + len(data))
    assert frames.fits(frame.items)


@given(st.lists(any_frame, max_size=4))
def test_journal(written: list[Frame]) -> None:
    assert frames.read_journal(b"".join(frames.encode(*frame) for frame in written)) == written


def test_journal_torn_at_every_octet() -> None:
    """What was whole is read, what was torn is lost, and nothing else happens."""
    parts = [frames.encode(*frame) for frame in JOURNAL]
    data = b"".join(parts)
    ends = [sum(map(len, parts[: i + 1])) for i in range(len(parts))]
    for cut in range(len(data) + 1):
        assert frames.read_journal(data[:cut]) == JOURNAL[: sum(end <= cut for end in ends)]
        # A crash may also leave the file longer than what was written of it: the rest is zero.
        assert frames.read_journal(data[:cut] + bytes(200)) == JOURNAL[: sum(end <= cut for end in ends)]


def test_journal_damaged_at_every_octet() -> None:
    """A frame with any octet changed is not believed, its head's stamps no more than its items."""
    parts = [frames.encode(*frame) for frame in (TWO, ONE, THREE)]
    data = b"".join(parts)
    for at in range(len(parts[0]), len(parts[0]) + len(parts[1])):
        for flip in (1, 0x80):
            damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            assert frames.read_journal(damaged) == [TWO]


@pytest.mark.parametrize(("items", "why"), [
    ([(1, bytes(layout.FRAME_MAX))], "frame of"), ([(1, b"")] * 65536, "frame of"),
    ([(1, bytes(layout.FRAME_MAX - layout.FRAME.size - layout.ITEM.size + 1))], "frame of"),
])
def test_too_much_for_a_frame(items: list[tuple[int, bytes]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        frames.encode(layout.F_RECORDS, Stamp(1, 2, 3), Stamp(1, 2, 2), items)
    assert not frames.fits(items)


def test_the_largest_frame_fits() -> None:
    items = [(1, bytes(layout.FRAME_MAX - layout.FRAME.size - layout.ITEM.size))]
    assert frames.fits(items)
    data = frames.encode(layout.F_RECORDS, Stamp(1, 2, 3), Stamp(1, 2, 2), items)
    assert len(data) == layout.FRAME_MAX
    assert frames.decode(data)[0].items == items


def forged(count: int, body: bytes) -> bytes:
    """A frame whose checksum is right and whose items are not."""
    head = layout.FRAME.pack(
        magic=layout.FRAME_MAGIC, kind=1, count=count, epoch=1, version=2, node_seq=3, from_version=1, from_node_seq=3,
        size=len(body), crc=0)[:-4]
    return head + crc32(body, crc32(head)).to_bytes(4, "little") + body


ITEM = layout.ITEM.pack(index=1, size=4) + b"abcd"


@pytest.mark.parametrize(("count", "body", "why"), [
    (1, b"", "exceed"), (1, ITEM[:7], "exceed"), (1, ITEM[:-1], "exceed"), (2, ITEM, "exceed"), (0, ITEM, "behind"),
    (1, ITEM + b"x", "behind"),
])
def test_items_that_do_not_add_up(count: int, body: bytes, why: str) -> None:
    assert frames.decode(forged(1, ITEM))[0].items == [(1, b"abcd")]
    with pytest.raises(ValueError, match=why):
        frames.decode(forged(count, body))


@given(st.binary(max_size=200))
def test_any_octets_are_no_frame(data: bytes) -> None:
    assert frames.read_journal(data) == []
    with pytest.raises(ValueError, match="frame"):
        frames.decode(data)
