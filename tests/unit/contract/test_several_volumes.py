"""Servers with several volumes: two copies are never on one of them, whatever a table looks like."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.contract.mirroring_ring import CANDIDATES, class_rows, mirrors_among, ring, ring_rows
from mailarray.contract.mirroring_table import DRAINING, SERVING, MirroringTable, Server, dump, parse
from mailarray.contract.server_names import group_of, host_of, hosts, number_of, volume_name


def volumes(host: str, count: int, zone: str = "", node: str = "", state: str = SERVING) -> list[Server]:
    names = [volume_name(host, number) for number in range(count)]
    return [Server(name, f"{host}:{2520 + i}", f"{host}:{2510 + i}", zone, node, state) for i, name in enumerate(names)]


states = st.sampled_from([SERVING, SERVING, SERVING, DRAINING])
fleets = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), states), max_size=12).map(
    lambda raw: [
        s for i, (n, z, node, state) in enumerate(raw) for s in volumes(f"s-{i}", n, f"z{z}", f"n{node}", state)
    ]
)


@pytest.mark.parametrize(
    ("name", "group", "host", "number"),
    [
        ("mail-0", "mail", "mail-0", 0),
        ("mail-0.1", "mail", "mail-0", 1),
        ("a-b-12.15", "a-b", "a-b-12", 15),
        ("a.b-3", "a.b", "a.b-3", 0),
        ("a.b-3.2", "a.b", "a.b-3", 2),
        ("mail", "", "mail", 0),
    ],
)
def test_names(name: str, group: str, host: str, number: int) -> None:
    assert (group_of(name), host_of(name), number_of(name)) == (group, host, number)
    assert volume_name(host, number) == name


def test_hosts_are_counted_once_and_strangers_each() -> None:
    names = {1: "mail-0", 2: "mail-0.1", 3: "mail-1"}
    assert [hosts(volumes, names) for volumes in ([], [1, 2], [1, 2, 3], [1, 9, 8], [1, 1])] == [0, 1, 2, 3, 1]


@settings(max_examples=150, deadline=None)
@given(fleets, st.sampled_from(["Zone", "Node"]))
def test_no_row_has_a_volume_of_its_own_host_and_each_other_host_comes_before_a_second_volume(
    fleet: list[Server], spread: str
) -> None:
    rows = ring_rows(fleet, spread)  # type: ignore[arg-type]
    others = {s.host for s in fleet if s.serving}
    for server in fleet:
        row = [name for group in rows[server.name] for name in group]
        usable = [s for s in fleet if s.serving and s.host != server.host]
        assert server.host not in {host_of(name) for name in row}
        assert len(row) == len(set(row)) == min(CANDIDATES, len(usable))
        assert len({host_of(name) for name in row}) == min(CANDIDATES, len(others - {server.host}))


@settings(max_examples=100, deadline=None)
@given(fleets, st.data())
def test_rows_that_a_person_asked_for_have_none_either(fleet: list[Server], data: st.DataObject) -> None:
    names = [server.name for server in fleet]
    some = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    classes = data.draw(st.lists(some, max_size=3))
    for source, row in class_rows(names, classes).items():
        assert host_of(source) not in {host_of(name) for group in row for name in group}
        for group in row:
            assert len(set(group)) == len(group)


@settings(deadline=None)
@given(fleets)
def test_a_table_of_anybody_offers_no_volume_of_the_own_host(fleet: list[Server]) -> None:
    everyone = tuple(server.name for server in fleet)
    table = MirroringTable(1, tuple(fleet), dict.fromkeys(everyone, (everyone,)))
    assert parse(dump(table)) == table
    for name in everyone:
        assert host_of(name) not in {s.host for group in table.candidates(name) for s in group}


def test_all_volumes_of_three_servers_carry_about_the_same() -> None:
    fleet = [s for i in range(3) for s in volumes(f"mail-{i}", 4)]
    table = ring(fleet, 1)
    assert all(len(group) == 8 for (group,) in table.rows.values())
    assert set(Counter(name for (group,) in table.rows.values() for name in group).values()) == {8}


def test_full_volumes_are_left_out_while_enough_servers_have_room() -> None:
    fleet = [s for i in range(3) for s in volumes(f"mail-{i}", 2)]
    some = mirrors_among(fleet, {"mail-0.1"}, 2)
    assert [s.name for s in some if not s.serving] == ["mail-0.1"]
    # Two servers have room on four volumes, but a third one is needed for a mirror of each.
    full = {"mail-0", "mail-0.1"}
    assert mirrors_among(fleet, full, 2) == tuple(fleet)
