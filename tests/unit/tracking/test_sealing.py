"""What a seal is decided from: the answers of fenced members, in whatever order they come (rules 8, 10, 11)."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mailarray.journal.fence import FenceAnswer
from mailarray.model.ids import VolumeId
from mailarray.tracking.sealing import Verdict, decide

VOLUMES = [VolumeId(bytes([n]) * 16) for n in range(5)]
MEMBERS = VOLUMES[:3]
answers = st.lists(
    st.builds(
        FenceAnswer,
        st.sampled_from(VOLUMES),
        st.integers(0, 5).map(lambda n: n * 100),
        st.none() | st.integers(0, 5).map(lambda n: n * 100),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=5,
    unique_by=lambda answer: answer.volume,
)
lost = st.sets(st.sampled_from(VOLUMES))


def answer(volume: int, length: int, sealed: int | None = None, epoch: int = 0, cut: bool = False) -> FenceAnswer:
    return FenceAnswer(VOLUMES[volume], length, sealed, epoch, cut)


@given(answers, lost, st.randoms(use_true_random=False))
def test_the_order_of_answers_does_not_matter(
    some: list[FenceAnswer], gone: set[VolumeId], dice: random.Random
) -> None:
    shuffled = list(some)
    dice.shuffle(shuffled)
    assert decide(MEMBERS, shuffled, gone).length == decide(MEMBERS, some, gone).length


@given(answers, lost)
def test_what_is_decided_follows_the_rules(some: list[FenceAnswer], gone: set[VolumeId]) -> None:
    verdict = decide(MEMBERS, some, gone)
    counted = [one for one in some if one.volume in MEMBERS]  # only original members count
    remembered = [(one.epoch, one.sealed_length) for one in counted if one.sealed_length is not None]
    if not counted:
        assert verdict.length is None
    elif remembered:
        assert verdict.length == max(remembered)[1]
    elif all(one.cut for one in counted) and set(MEMBERS) - {one.volume for one in counted} - gone:
        assert verdict.length is None and verdict.reason
    else:
        # Any one member's length covers everything acknowledged, so the longest does.
        assert verdict.length == max(one.length for one in counted)


@given(answers, lost)
def test_more_answers_never_lower_the_length(some: list[FenceAnswer], gone: set[VolumeId]) -> None:
    some = [FenceAnswer(one.volume, one.length, None, 0, one.cut) for one in some]
    fewer, more = decide(MEMBERS, some[:-1], gone).length, decide(MEMBERS, some, gone).length
    assert fewer is None or (more is not None and more >= fewer)


def test_transcript() -> None:
    nobody: set[VolumeId] = set()
    assert decide(MEMBERS, [answer(0, 300), answer(1, 200)], nobody) == Verdict(300)
    assert decide(MEMBERS, [answer(4, 900), answer(1, 200)], nobody) == Verdict(200)  # not a member
    assert decide(MEMBERS, [answer(0, 300), answer(1, 200, sealed=200, epoch=1)], nobody) == Verdict(200)
    newer = [answer(0, 300, sealed=300, epoch=1), answer(1, 200, sealed=200, epoch=2)]
    assert decide(MEMBERS, newer, nobody) == Verdict(200)  # an L of before a catalog restore is void
    assert decide(MEMBERS, [answer(0, 300, cut=True)], nobody).length is None
    assert decide(MEMBERS, [answer(0, 300, cut=True)], set(MEMBERS[1:])) == Verdict(300)
    assert decide(MEMBERS, [answer(n, 300, cut=True) for n in range(3)], nobody) == Verdict(300)
    assert decide(MEMBERS, [answer(0, 300, cut=True), answer(1, 200)], nobody) == Verdict(300)
