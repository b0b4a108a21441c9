"""The golden packets are answered as they ever were; see `tests.golden.packets`."""

from __future__ import annotations

import dns.message
import pytest

from tests.golden.packets import Case, answered, read

CASES = read()


@pytest.fixture(scope="module")
def now() -> dict[str, Case]:
    """The answers of this source by name."""
    return {case.name: case for case in answered()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reply_and_counters_are_the_golden_ones(case: Case, now: dict[str, Case]) -> None:
    assert now[case.name] == case
    if case.reply is not None and case.name != "no family":  # which dnspython does not read
        dns.message.from_wire(case.reply)


def test_the_file_has_every_question(now: dict[str, Case]) -> None:
    assert [case.name for case in CASES] == list(now)
