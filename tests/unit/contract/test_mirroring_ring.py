"""The default rows: far away, evenly, small enough, the same for the same servers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.contract.mirroring_ring import CANDIDATES, Rows, class_rows, ring, ring_rows, spread_that_holds
from mailarray.contract.mirroring_table import DRAINING, SERVING, Server, dump, parse

CONFIG_MAP_LIMIT = 1 << 20  # bytes, of the API server


def server(name: str, zone: str, node: str = "", state: str = SERVING) -> Server:
    return Server(name, f"{name}:2520", f"{name}:2510", zone, node or f"node-{name}", state)


def even(zones: int, nodes: int, each: int) -> list[Server]:
    return [
        server(f"s-{z}-{n}-{i}", f"zone-{z}", f"node-{z}-{n}")
        for z in range(zones)
        for n in range(nodes)
        for i in range(each)
    ]


def candidacies(rows: Rows, best_only: bool = True) -> Counter[str]:
    return Counter(m for row in rows.values() for group in (row[:1] if best_only else row) for m in group)


fleets = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from([SERVING, SERVING, SERVING, DRAINING])), max_size=40
).map(lambda raw: [server(f"s-{i}", f"z{z}" if z else "", f"n{z}-{n}", s) for i, (z, n, s) in enumerate(raw)])


@settings(max_examples=200, deadline=None)
@given(fleets, st.sampled_from(["Zone", "Node"]), st.randoms())
def test_rows_obey_the_invariants(fleet: list[Server], spread: str, shuffle: random.Random) -> None:
    rows = ring_rows(fleet, spread)  # type: ignore[arg-type]
    by_name = {s.name: s for s in fleet}
    assert set(rows) == set(by_name)
    for name, row in rows.items():
        me = by_name[name]
        mine = [m for group in row for m in group]
        assert all(group for group in row)
        assert len(mine) == len(set(mine)) and len(mine) <= CANDIDATES
        assert name not in mine
        assert all(by_name[m].serving for m in mine)
        usable = [s for s in fleet if s.serving and s is not me]
        assert len(mine) == min(len(usable), CANDIDATES)

        def distance(other: Server, me: Server = me) -> int:
            if spread == "Zone" and other.zone != me.zone:
                return 0
            return 1 if (other.zone, other.node) != (me.zone, me.node) else 2

        assert [sorted({distance(by_name[m]) for m in group}) for group in row] == [
            [d] for d in sorted({distance(by_name[m]) for m in mine})
        ]
        if usable:
            assert distance(by_name[mine[0]]) == min(distance(s) for s in usable)
    shuffled = list(fleet)
    shuffle.shuffle(shuffled)
    assert ring_rows(shuffled, spread) == rows  # type: ignore[arg-type]


def test_equal_zones_carry_equal_loads() -> None:
    for zones, nodes, each in ((2, 3, 4), (3, 1, 1), (3, 4, 5), (5, 2, 6), (1, 6, 4), (3, 500, 1)):
        loads = candidacies(ring_rows(even(zones, nodes, each))).values()
        assert max(loads) - min(loads) <= 1, (zones, nodes, each, sorted(loads))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_servers_of_one_zone_carry_about_equal_loads(sizes: list[int]) -> None:
    fleet = [server(f"s-{z}-{i}", f"z{z}") for z, size in enumerate(sizes) for i in range(size)]
    loads = candidacies(ring_rows(fleet))
    for z, size in enumerate(sizes):
        mine = [loads[f"s-{z}-{i}"] for i in range(size)]
        # Where others are few, who follows them on the ring is a matter of rounding, by up to two.
        assert max(mine) - min(mine) <= 2 + sum(mine) / size, (sizes, z, mine)


def test_a_lost_zone_leaves_candidates() -> None:
    for row in ring_rows(even(2, 4, 4)).values():
        assert [len(group) for group in row] == [6, 2]


def test_neighbours_lie_in_different_zones_and_on_different_nodes() -> None:
    fleet = even(3, 3, 3)
    by_name = {s.name: s for s in fleet}
    for row in ring_rows(fleet).values():
        first, second = (by_name[name] for name in row[0][:2])
        assert first.zone != second.zone
        assert len({by_name[name].node for name in row[0]}) == 6


@pytest.mark.parametrize("kind", ["example", "e" * 44])
def test_a_table_of_1500_servers_fits_a_config_map(kind: str) -> None:
    fleet = [
        Server(
            f"{kind}-{group:03}-{i}",
            f"{kind}-{group:03}-{i}.{kind}-servers.mail.svc.cluster.local:2520",
            f"{kind}-{group:03}-{i}.{kind}-servers.mail.svc.cluster.local:2510",
            f"eu-central-1{'abc'[i]}",
            f"ip-10-{group // 250}-{group % 250}-{i}.eu-central-1.compute.internal",
        )
        for group in range(500)
        for i in range(3)
    ]
    table = ring(fleet, 12345)
    text = dump(table)
    print(len(text), "bytes")
    assert len(text) < CONFIG_MAP_LIMIT
    assert parse(text) == table


def test_the_spread_that_holds_is_said() -> None:
    def holds(*fleet: Server) -> str | None:
        return spread_that_holds(fleet, ring_rows(fleet))

    assert holds(server("a", "z1"), server("b", "z2")) == "Zone"
    assert holds(server("a", "z1"), server("b", "z1")) == "Node"
    assert holds(server("a", "z1"), server("b", "")) == "Node"
    assert holds(server("a", "", "n"), server("b", "", "n")) is None
    assert holds(server("a", "z1")) is None
    assert holds() is None


def test_named_classes_are_kept_in_order_and_spread_evenly() -> None:
    sources, mirrors = [f"a-{i}" for i in range(6)], [f"b-{i}" for i in range(12)]
    rows = class_rows(sources, [mirrors, sources])
    assert all([len(group) for group in row] == [6, 2] for row in rows.values())
    assert set(candidacies(rows).values()) == {3}
    assert all(name not in row[1] for name, row in rows.items())
    assert class_rows(["a-0"], [["a-0"], ["b-0"]]) == {"a-0": (("b-0",),)}
    assert class_rows(["a-0"], [["a-0"]]) == {"a-0": ()}
