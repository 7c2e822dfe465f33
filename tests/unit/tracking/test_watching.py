"""Which writers live, by the observer's own clock (rule 15)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailarray.model.ids import IncarnationId, VolumeId
from mailarray.tracking.watching import SILENCE, Beat, Watch

BEAT: Beat = (VolumeId(b"v" * 16), IncarnationId(b"i" * 16), 0)
LONG_AGO = -1000.0


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_beat_that_stands_still_for_t_is_silent_and_one_that_moves_is_not() -> None:
    clock = Clock()
    watch = Watch(clock)
    for counter in range(5):
        watch.observe({BEAT: counter}, {BEAT})
        clock.now += SILENCE - 0.1
        assert not watch.silent(BEAT, LONG_AGO)
    clock.now += 0.1
    assert watch.silent(BEAT, LONG_AGO)
    watch.observe({BEAT: 99}, {BEAT})
    assert not watch.silent(BEAT, LONG_AGO)


def test_a_direct_word_counts_when_the_beat_stands_still() -> None:
    clock = Clock()
    watch = Watch(clock)
    watch.observe({BEAT: 1}, {BEAT})
    clock.now += 10
    assert not watch.silent(BEAT, clock.now - SILENCE + 0.1)
    assert watch.silent(BEAT, clock.now - SILENCE)


def test_a_missing_beat_counts_as_one_that_does_not_move() -> None:
    clock = Clock()
    watch = Watch(clock)
    watch.observe({}, {BEAT})
    assert not watch.silent(BEAT, LONG_AGO)
    clock.now += SILENCE
    watch.observe({}, {BEAT})
    assert watch.silent(BEAT, LONG_AGO)


def test_nothing_is_known_of_what_was_never_observed_nor_after_the_catalog_was_away() -> None:
    clock = Clock()
    watch = Watch(clock)
    assert not watch.silent(BEAT, LONG_AGO)
    watch.observe({BEAT: 1}, {BEAT})
    clock.now += 100
    watch.lost_sight()
    assert not watch.silent(BEAT, LONG_AGO)
    watch.observe({BEAT: 1}, {BEAT})
    assert not watch.silent(BEAT, LONG_AGO)
    clock.now += SILENCE
    assert watch.silent(BEAT, LONG_AGO)


def test_what_nobody_asks_about_is_forgotten() -> None:
    clock = Clock()
    watch = Watch(clock)
    watch.observe({BEAT: 1}, {BEAT})
    watch.observe({BEAT: 1}, set())
    clock.now += 100
    watch.observe({BEAT: 1}, {BEAT})
    assert not watch.silent(BEAT, LONG_AGO)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans(), st.booleans()), max_size=20))
def test_silence_needs_both_for_t(steps: list[tuple[float, bool, bool]]) -> None:
    clock = Clock()
    watch = Watch(clock)
    counter, moved, word = 0, clock.now, LONG_AGO
    watch.observe({BEAT: counter}, {BEAT})
    for seconds, beats, speaks in steps:
        clock.now += seconds
        if beats:
            counter, moved = counter + 1, clock.now
        if speaks:
            word = clock.now
        watch.observe({BEAT: counter}, {BEAT})
        assert watch.silent(BEAT, word) == (clock.now - moved >= SILENCE and clock.now - word >= SILENCE)
