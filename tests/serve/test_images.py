"""What is served: files and frames say the same twice, only forward, and nothing unreadable replaces anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import Context
from dnsd.image import frames, layout
from dnsd.model import Stamp
from dnsd.serve.images import Images
from tests.serve import samples
from tests.serve.samples import FIRST


def at(version: int, epoch: int = FIRST.epoch, node_seq: int = 0) -> Stamp:
    return Stamp(epoch, version, node_seq)


def records(endpoint: int, to: Stamp, start: Stamp) -> bytes:
    return frames.encode(layout.F_RECORDS, to, start, samples.delta(endpoint))


REMAP = frames.encode(layout.F_REMAP, at(0), at(0))


class Rig:
    """A state directory with an image at `FIRST`, loaded."""

    def __init__(self, folder: Path) -> None:
        self.state = samples.state(folder)
        self.count = samples.counters()
        self.images = Images(self.state, self.count)
        assert self.images.load()

    def answer(self) -> list[str]:
        """What api.demo.example is now."""
        assert self.images.image is not None
        reply = respond(samples.query("api.demo.example"), bytes((192, 0, 2, 1)), self.images.image, 0,
                        Context(samples.counters()))
        assert reply is not None
        return samples.addresses(reply)

    def journal(self, *parts: bytes) -> None:
        samples.put(self.state / "image.journal", b"".join(parts))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "state")


@pytest.fixture(autouse=True)
def _quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """What is complained about is looked at where it matters."""


def test_without_files_there_is_no_image(tmp_path: Path) -> None:
    images = Images(tmp_path, samples.counters())
    assert not images.load()
    assert images.stamp is None
    images.take(records(2, at(2), at(1)))
    images.mend()
    assert images.image is None


def test_a_frame_that_fits_is_applied(rig: Rig) -> None:
    rig.images.take(records(2, at(2), FIRST))
    assert rig.answer() == ["198.51.100.2"]
    assert rig.images.stamp == at(2)
    rig.images.take(records(3, at(2, node_seq=1), at(2)))
    assert rig.answer() == ["198.51.100.3"]
    assert rig.count[metrics.DELTAS_APPLIED] == 2


@pytest.mark.parametrize("stamp", [FIRST, at(0), at(0, node_seq=5)])
def test_a_frame_we_have_is_passed_over(rig: Rig, stamp: Stamp) -> None:
    rig.images.take(records(2, stamp, at(0)))
    assert rig.answer() == ["198.51.100.1"]
    assert rig.images.stamp == FIRST
    assert rig.count[metrics.DELTAS_IGNORED] == 1


@pytest.mark.parametrize("start", [at(2), at(1, node_seq=1), at(1, epoch=8)])
def test_a_gap_means_the_files(rig: Rig, start: Stamp) -> None:
    samples.state(rig.state, at(9), 4)
    rig.images.take(records(2, Stamp(start.epoch, 3, 0), start))
    assert rig.answer() == ["198.51.100.4"]
    assert rig.images.stamp == at(9)
    assert rig.count[metrics.DELTAS_GAP] == 1


def test_a_remap_means_the_files(rig: Rig) -> None:
    samples.state(rig.state, at(9), 4)
    rig.images.take(REMAP)
    assert rig.answer() == ["198.51.100.4"]


@pytest.mark.parametrize("packet", [b"", b"x" * 100, records(2, at(2), FIRST)[:-1]])
def test_what_is_no_frame_is_counted(rig: Rig, packet: bytes) -> None:
    rig.images.take(packet)
    assert rig.answer() == ["198.51.100.1"]
    assert rig.count[metrics.DELTAS_BAD] == 1


@pytest.mark.parametrize("items", [[(99, samples.delta(2)[0][1])], [(0, b"short")]])
def test_a_record_that_does_not_fit_means_the_files(rig: Rig, items: list[tuple[int, bytes]]) -> None:
    samples.state(rig.state, at(9), 4)
    rig.images.take(frames.encode(layout.F_RECORDS, at(2), FIRST, items))
    assert rig.answer() == ["198.51.100.4"]
    assert rig.count[metrics.DELTAS_BAD] == 1


# --- the journal ------------------------------------------------------------------------------------------------------


def test_the_journal_goes_on_from_the_image(rig: Rig) -> None:
    rig.journal(records(9, FIRST, at(0)), records(2, at(2), FIRST), records(3, at(3), at(2)))
    assert rig.images.outdated()
    assert rig.images.load()
    assert not rig.images.outdated()
    assert (rig.answer(), rig.images.stamp) == (["198.51.100.3"], at(3))


def test_a_torn_tail_is_not_read(rig: Rig) -> None:
    rig.journal(records(2, at(2), FIRST), records(3, at(3), at(2))[:-1])
    assert rig.images.load()
    assert rig.images.stamp == at(2)


@pytest.mark.parametrize("stray", [records(3, at(5), at(4)), records(3, at(5, 8), at(4, 8))])
def test_a_journal_that_starts_elsewhere_is_left_out(rig: Rig, stray: bytes) -> None:
    rig.journal(records(2, at(2), FIRST), stray)
    assert rig.images.load()
    assert rig.images.stamp == at(2)


def test_an_image_replaced_while_we_read_is_read_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old image is read, then control puts a new image and a journal that goes on from it."""
    honest, steps = Images._replay, iter([True])

    def replaced(self: Images, image: object) -> bool:
        if next(steps, False):
            samples.state(rig.state, at(5), 5)
            rig.journal(records(6, at(6), at(5)))
        return honest(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(Images, "_replay", replaced)
    assert rig.images.load()
    assert (rig.answer(), rig.images.stamp) == (["198.51.100.6"], at(6))


# --- never backward, never worse --------------------------------------------------------------------------------------


def test_an_older_image_is_refused_a_new_history_is_not(rig: Rig) -> None:
    samples.state(rig.state, at(0), 9)
    assert not rig.images.load()
    assert rig.answer() == ["198.51.100.1"]
    samples.state(rig.state, at(0, epoch=3), 9)
    assert rig.images.load()
    assert rig.answer() == ["198.51.100.9"]


@pytest.mark.parametrize("data", [b"", b"DNSDIMG\0", samples.image_bytes(at(5))[:-1], bytes(5000)])
def test_a_damaged_image_changes_nothing(rig: Rig, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    samples.put(rig.state / "image", data)
    for _ in range(3):
        assert not rig.images.load()
    assert rig.answer() == ["198.51.100.1"]
    assert rig.count[metrics.IMAGE_LOAD_ERRORS] == 3
    assert capsys.readouterr().err.count("\n") == 1, "said once"


def test_a_link_is_no_image(rig: Rig, tmp_path: Path) -> None:
    samples.put(tmp_path / "elsewhere", samples.image_bytes(at(5)))
    (rig.state / "image").unlink()
    (rig.state / "image").symlink_to(tmp_path / "elsewhere")
    assert not rig.images.load()
    assert rig.images.stamp == FIRST


@settings(max_examples=60)
@given(moves=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=12))
def test_the_served_stamp_never_falls(
        tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int, bool]]) -> None:
    rig = Rig(tmp_path_factory.mktemp("state"))
    before = rig.images.stamp
    assert before is not None
    for to, start, write in moves:
        if write:
            samples.put(rig.state / "image", samples.image_bytes(at(to)))
        else:
            rig.images.take(records(2, at(to), at(start)))
        now = rig.images.stamp
        assert now is not None
        assert now >= before
        before = now


# --- maps -------------------------------------------------------------------------------------------------------------


def test_a_map_decides_and_a_frame_replaces_it(rig: Rig) -> None:
    rig.images.take(frames.encode(layout.F_RECORDS, at(2), FIRST, samples.two_sites()))
    assert rig.answer() == ["198.51.100.1"]
    samples.put(rig.state / "maps" / "map-0b", samples.table(1))
    rig.images.take(frames.encode(layout.F_MAP, at(2, node_seq=1), at(2), [(0, b"map-0b")]))
    assert (rig.answer(), rig.images.stamp) == (["198.51.100.2"], at(2, node_seq=1))


def test_the_same_table_is_mapped_once(rig: Rig) -> None:
    for _ in range(3):
        rig.images.load()
    assert rig.count[metrics.MAPS_LOADED] == 1


@pytest.mark.parametrize("name", [b"gone", b"../image", b".hidden", b"a/b", b"\xff"])
def test_a_map_that_cannot_be_read_leaves_the_one_before(rig: Rig, name: bytes) -> None:
    rig.images.take(frames.encode(layout.F_RECORDS, at(2), FIRST, samples.two_sites()))
    rig.images.take(frames.encode(layout.F_MAP, at(3), at(2), [(0, name)]))
    assert (rig.answer(), rig.images.stamp) == (["198.51.100.1"], at(3))
    assert rig.count[metrics.IMAGE_LOAD_ERRORS] == 1


def test_a_map_that_comes_late_is_found(rig: Rig) -> None:
    rig.images.take(frames.encode(layout.F_RECORDS, at(2), FIRST, samples.two_sites()))
    rig.images.take(frames.encode(layout.F_MAP, at(3), at(2), [(0, b"late")]))
    samples.put(rig.state / "maps" / "late", samples.table(1))
    rig.images.mend()
    assert rig.answer() == ["198.51.100.2"]


def test_an_image_without_its_map_is_served_by_weights(tmp_path: Path) -> None:
    state = tmp_path / "state"
    samples.put(state / "image", samples.image_bytes())
    images = Images(state, samples.counters())
    assert images.load()
    assert images.image is not None
    assert not images.image.maps
