"""The readers of foreign bytes, fed with damaged journals, events and specifications."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import targets

Damages = list[tuple[float, int, bytes]]
damages = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=40)), max_size=3)
few = settings(max_examples=100)


def damaged(data: bytes, damages: Damages) -> bytes:
    """With some of the bytes at some places replaced, taken out or put in."""
    for share, removed, put in damages:
        place = int(share * (len(data) + 1))
        data = data[:place] + put + data[place + removed :]
    return data


@few
@given(damages=damages)
def test_a_damaged_segment_is_read_up_to_the_damage_and_gone_on_with(damages: Damages) -> None:
    targets.journal(damaged(targets.segment(), damages))


@few
@given(damages=damages, which=st.sampled_from(targets.events()))
def test_a_damaged_event_is_refused_or_read_as_something_that_can_be_written(damages: Damages, which: bytes) -> None:
    targets.event(damaged(which, damages))


@few
@given(damages=damages)
def test_a_damaged_specification_is_refused_or_read_as_something_that_can_be_written(damages: Damages) -> None:
    targets.specification(damaged(targets.a_specification(), damages))
