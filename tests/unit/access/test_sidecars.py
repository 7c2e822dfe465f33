"""Compiling a mailbox out of several volumes' answers: doubles, tombstones, and who is missing."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.access.sidecars import Answer, merge, missing_volumes, parse_answer
from mailarray.model.ids import VolumeId

A, B, C, D = (VolumeId(bytes([n]) * 16) for n in (1, 2, 3, 4))


def row(number: int, *members: VolumeId, segment: int = 9, received_at: int | None = None) -> dict[str, Any]:
    return {
        "placement": f"{number:032x}.0",
        "message": f"{number:032x}",
        "segment": f"{segment:032x}",
        "offset": 100 * number,
        "length": 10,
        "checksum": 1,
        "received_at": number if received_at is None else received_at,
        "members": [m.hex() for m in members],
    }


def answer(volume: VolumeId, *rows: dict[str, Any], tombstones: tuple[int, ...] = ()) -> Answer:
    gone = [f"{number:032x}.0" for number in tombstones]
    return parse_answer({"volume": volume.hex(), "messages": list(rows), "tombstones": gone})


def test_doubles_are_dropped_and_all_their_places_kept() -> None:
    found = merge([answer(A, row(1, A, B)), answer(B, row(1, A, B), row(1, B, C, segment=8)), answer(C)])
    assert [str(f.placement) for f in found] == [f"{1:032x}.0"]
    places = {(int.from_bytes(where.segment), where.members) for where in found[0].locations}
    assert places == {(9, (A, B)), (8, (B, C))}


def test_a_repaired_copy_is_a_place_to_read_from() -> None:
    (found,) = merge([answer(D, row(1, A, B))])
    assert found.locations[0].members == (A, B, D)


def test_order_is_by_time_received_then_by_placement() -> None:
    found = merge([answer(A, row(3, A, received_at=5), row(2, A, received_at=5), row(9, A, received_at=1))])
    assert [f.message[-1] for f in found] == [9, 2, 3]


@given(st.randoms(use_true_random=False))
def test_it_does_not_matter_who_answers_first(rng: random.Random) -> None:
    answers = [
        answer(A, row(1, A, B), row(2, C, A)),
        answer(B, row(1, A, B), row(3, B, C), tombstones=(2,)),
        answer(C, row(3, B, C), row(2, C, A), tombstones=(7,)),
    ]
    rng.shuffle(answers)
    assert [f.message[-1] for f in merge(answers)] == [1, 3]


@pytest.mark.parametrize(
    ("answers", "silent", "missing"),
    [
        ([answer(A), answer(B), answer(C)], [], 0),
        ([answer(A), answer(B)], [{C}], 1),
        ([answer(A), answer(B)], [set()], 1),  # a server that was never heard
        ([answer(A, row(1, A, C)), answer(B)], [set()], 1),  # ... and has the volume that is named
        ([answer(A, row(1, A, C)), answer(B)], [{C}], 1),
        ([answer(A, row(1, A, D)), answer(B)], [{C}], 2),  # a wiped disk, and a silent server
        ([answer(A, row(1, A, D)), answer(B), answer(C)], [], 1),
        ([answer(A)], [set(), set()], 2),
        ([answer(A, row(1, A, C))], [set(), {B}], 2),
        ([], [{A}, {B}, {C}], 3),
    ],
)
def test_missing_volumes(answers: list[Answer], silent: list[set[VolumeId]], missing: int) -> None:
    assert missing_volumes(answers, [frozenset(s) for s in silent]) == missing


def test_with_all_but_one_of_three_volumes_no_message_is_missed() -> None:
    rows = {1: (A, B), 2: (B, C), 3: (C, A)}
    for present in itertools.combinations((A, B, C), 2):
        answers = [answer(v, *(row(n, *m) for n, m in rows.items() if v in m)) for v in present]
        assert missing_volumes(answers, [frozenset()]) == 1
        assert [f.message[-1] for f in merge(answers)] == [1, 2, 3]


@pytest.mark.parametrize("raw", [{}, {"volume": "x"}, {"volume": A.hex(), "messages": [{}], "tombstones": []}, []])
def test_an_answer_without_sense(raw: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse_answer(raw)


def test_a_drained_volume_is_not_waited_for() -> None:
    rows = answer(B, row(1, A, B)), answer(C, row(2, A, C), row(3, D, C))
    assert missing_volumes(rows, []) == 2  # A and D
    raw = {"volume": B.hex(), "messages": [row(1, A, B)], "tombstones": [], "gone": [A.hex()]}
    assert missing_volumes((parse_answer(raw), rows[1]), []) == 1
    # Its server is in the table again, and silent: it counts, whatever an old memory says.
    assert missing_volumes((parse_answer(raw), rows[1]), [frozenset({A})]) == 2


def test_a_volume_that_other_mail_names_is_waited_for() -> None:
    """A mailbox may lie on silent volumes alone: then only the headers of other mail tell that they exist."""
    raw: dict[str, Any] = {"volume": B.hex(), "messages": [], "tombstones": [], "named": [A.hex(), C.hex()]}
    other = answer(C)
    assert missing_volumes((parse_answer(raw), other), []) == 1  # A
    assert missing_volumes((parse_answer(raw), other), [frozenset({D})]) == 2
    assert missing_volumes((parse_answer(raw | {"gone": [A.hex()]}), other), [frozenset({D})]) == 1


def test_a_server_that_was_never_heard_has_no_lost_volume() -> None:
    """A disk was replaced and is not rebuilt yet, and another server is down: mail of these two is on neither other."""
    raw: dict[str, Any] = {"volume": B.hex(), "messages": [], "tombstones": [], "named": [A.hex()], "lost": [A.hex()]}
    assert missing_volumes((parse_answer(raw), answer(C)), [frozenset()]) == 2
    assert missing_volumes((parse_answer(raw | {"lost": []}), answer(C)), [frozenset()]) == 1
    assert missing_volumes((parse_answer(raw), answer(C)), [frozenset({A})]) == 1  # it is back all the same
    assert missing_volumes((parse_answer(raw), answer(A)), []) == 0


def test_all_volumes_of_one_server_may_be_silent_together() -> None:
    rows = [answer(A, row(1, A, C), row(2, A, D)), answer(B, row(3, B, C))]
    both = ["mail-2", "mail-2"]
    assert missing_volumes(rows, [frozenset({C}), frozenset({D})]) == 2
    assert missing_volumes(rows, [frozenset({C}), frozenset({D})], both) == 1
    assert missing_volumes(rows, [frozenset(), frozenset()], both) == 1  # never heard: they are those that mail names
    assert missing_volumes(rows, [frozenset({C}), frozenset()], both) == 1
    assert missing_volumes(rows, [frozenset()], ["mail-2"]) == 2  # two are named, and it has one
    assert missing_volumes(rows, [frozenset({C}), frozenset({D})], ["mail-2", "mail-3"]) == 2
