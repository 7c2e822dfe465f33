"""Choosing mirrors: by class, in turn, and by the newest table only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailarray.contract.mirroring_ring import ring
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.mirroring.candidates import choose
from mailarray.mirroring.mirrors import Mirrors
from tests.unit.mirroring.doubles import servers

names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
classes = names.flatmap(
    lambda some: st.lists(st.integers(0, 2), min_size=len(some), max_size=len(some)).map(
        lambda of: [[name for name, c in zip(some, of, strict=True) if c == wanted] for wanted in range(3)]
    )
)


@given(classes, st.sets(st.sampled_from("abcdefgh")), st.integers(0, 4), st.integers(0, 1000))
def test_the_best_class_is_used_up_before_the_next(
    groups: list[list[str]], ready: set[str], count: int, turn: int
) -> None:
    chosen = choose(groups, ready, count, turn)
    usable = [[name for name in group if name in ready] for group in groups]
    assert len(chosen) == len(set(chosen)) == min(count, sum(map(len, usable)))
    left = count
    for group in usable:
        taken = [name for name in chosen if name in group]
        assert len(taken) == min(left, len(group))
        left -= len(taken)


@given(st.integers(1, 6), st.integers(0, 50))
def test_turns_spread_segments_over_all_candidates(size: int, first: int) -> None:
    group = [str(i) for i in range(size)]
    assert sorted(choose([group], group, 1, turn)[0] for turn in range(first, first + size)) == group


def test_a_lower_generation_never_replaces_a_higher_one() -> None:
    mirrors = Mirrors("mail-0", ring(servers(3), 5), "token", 1.0)
    for generation in (4, 5):
        assert mirrors.set_table(ring(servers(4), generation)) == (False, False)
        assert mirrors.table.generation == 5 and set(mirrors.links) == {"mail-1", "mail-2"}
    assert mirrors.set_table(ring(servers(4), 6)) == (True, True)
    assert set(mirrors.links) == {"mail-1", "mail-2", "mail-3"}
    same_rows = ring(servers(4), 7)
    kept = mirrors.links["mail-1"]
    assert mirrors.set_table(same_rows) == (True, False)
    assert mirrors.links["mail-1"] is kept
    assert mirrors.set_table(MirroringTable(8, same_rows.servers, {"mail-0": (("mail-2",),)})) == (True, True)
    assert set(mirrors.links) == {"mail-2"}


def test_a_server_without_a_row_has_no_mirrors() -> None:
    assert Mirrors("mail-9", ring(servers(3), 1), "token", 1.0).links == {}
