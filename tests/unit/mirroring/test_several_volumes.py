"""A writer's mirrors are on as many hosts as there are of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.contract.server_names import host_of, volume_name
from mailarray.mirroring.candidates import choose
from mailarray.mirroring.mirrors import Mirrors

names = st.tuples(st.integers(0, 5), st.integers(0, 3)).map(lambda pair: volume_name(f"mail-{pair[0]}", pair[1]))
classes = st.lists(st.lists(names, unique=True, max_size=8), max_size=3)


@settings(deadline=None)
@given(classes, st.sets(names), st.integers(0, 5), st.integers(0, 50), st.lists(names, max_size=2))
def test_two_mirrors_are_never_on_one_host(
    groups: list[list[str]], ready: set[str], count: int, turn: int, before: list[str]
) -> None:
    chosen = choose(groups, ready, count, turn, before)
    taken = [host_of(name) for name in chosen]
    assert len(set(taken)) == len(taken) and not {host_of(name) for name in before} & set(taken)
    could = {host_of(name) for group in groups for name in group if name in ready} - {host_of(n) for n in before}
    assert len(chosen) == min(count, len(could))


def test_all_volumes_of_a_host_have_their_turn() -> None:
    row = [["mail-1", "mail-2", "mail-1.1", "mail-2.1"]]
    assert {choose(row, row[0], 1, turn)[0] for turn in range(4)} == set(row[0])
    assert choose(row, row[0], 2, 0) == ["mail-1", "mail-2"]
    assert choose(row, {"mail-1", "mail-1.1"}, 2, 1) == ["mail-1.1"]


async def test_a_segment_is_not_left_for_a_second_volume_of_a_host_that_it_is_on() -> None:
    """Else it would be left again and again: the better class has two ready mirrors, and one host."""
    names = ["mail-0", "mail-1", "mail-1.1", "mail-2"]
    rows: dict[str, tuple[tuple[str, ...], ...]] = {"mail-0": (("mail-1", "mail-1.1"), ("mail-2",))}
    table = MirroringTable(1, tuple(Server(name, f"{name}:1", f"{name}:2") for name in names), rows)
    mirrors = Mirrors("mail-0", table, "token", 1.0)
    links: dict[str, Any] = {
        name: SimpleNamespace(server=server, ready=True, full=False)
        for name in names[1:]
        if (server := table.server(name)) is not None
    }
    mirrors.links = links
    assert mirrors.ready_count() == 2
    chosen = await mirrors.choose(2, 1)
    assert [link.server.name for link in chosen] == ["mail-1.1", "mail-2"]
    assert not mirrors.better_than(chosen)
    assert mirrors.better_than([links["mail-2"]])
