"""Choosing a server of a group: in turn, only those that serve, not those that failed lately or are full."""

from __future__ import annotations

from mailarray.contract.mirroring_ring import ring
from mailarray.contract.mirroring_table import DRAINING, MirroringTable, Server
from mailarray.mirroring import hand_over
from mailarray.mirroring.hand_over import Keeper, Keepers


def servers(*names: str, draining: str = "") -> list[Server]:
    """Each at an address of its own."""
    return [
        Server(name, f"127.0.0.1:{i + 1}", f"127.0.0.1:{i + 100}", state=DRAINING if name == draining else "Serving")
        for i, name in enumerate(names)
    ]


class Bench:
    def __init__(self, *names: str, draining: str = "") -> None:
        self.table: MirroringTable = ring(servers(*names, draining=draining), 1)
        self.clock = 0.0
        self.keepers = Keepers("slow-0", "token", lambda: self.table, lambda: self.clock)

    def choose(self, group: str) -> Keeper | None:
        return self.keepers.choose(group)

    def name(self, group: str) -> str | None:
        keeper = self.choose(group)
        if keeper is None:
            return None
        keeper.under_way -= 1
        return keeper.server.name


def test_in_turn() -> None:
    bench = Bench("slow-0", "slow-1", "fast-0", "fast-1", "fast-2", "fast-0-x")
    assert [bench.name("fast") for _ in range(4)] == ["fast-0", "fast-1", "fast-2", "fast-0"]
    assert bench.name("slow") == "slow-1", "never itself"
    assert bench.name("unknown") is None


def test_one_that_failed_is_left_alone_for_a_while() -> None:
    bench = Bench("slow-0", "fast-0", "fast-1")
    keeper = bench.choose("fast")
    assert keeper is not None
    keeper.under_way -= 1
    keeper._failed("it did")
    assert {bench.name("fast") for _ in range(4)} == {"fast-1"}
    bench.clock += hand_over.RETRY_AFTER
    assert {bench.name("fast") for _ in range(4)} == {"fast-0", "fast-1"}


def test_one_that_says_nothing_is_left_alone_longer_each_time_and_tried_with_one_message() -> None:
    bench = Bench("slow-0", "fast-0")
    first = [bench.choose("fast") for _ in range(5)]
    pauses = []
    for _ in range(8):
        for keeper in first:  # all that were under way fail together
            assert keeper is not None
            keeper.under_way -= 1
            keeper._failed("nothing", silent=True)
        pause = 0.0
        while (keeper := bench.choose("fast")) is None:
            bench.clock += 0.5
            pause += 0.5
        assert bench.choose("fast") is None, "one at a time"
        pauses.append(pause)
        first = [keeper]
    assert pauses == [4, 8, 16, 32, 32, 32, 32, 32]


def test_one_that_has_its_hands_full_is_passed_over() -> None:
    bench = Bench("slow-0", "fast-0", "fast-1")
    chosen = [bench.choose("fast") for _ in range(2 * hand_over.MAX_UNDER_WAY)]
    assert all(chosen)
    assert bench.choose("fast") is None
    assert chosen[7] is not None
    chosen[7].under_way -= 1
    assert bench.choose("fast") is chosen[7]


def test_a_newer_table_counts_and_keeps_what_it_keeps() -> None:
    bench = Bench("slow-0", "fast-0", "fast-1")
    keeper = bench.choose("fast")
    assert keeper is not None and keeper.server.name == "fast-0"
    bench.table = ring(servers("slow-0", "fast-0", "fast-1", "fast-2", draining="fast-1"), 2)
    assert {bench.name("fast") for _ in range(4)} == {"fast-0", "fast-2"}
    assert keeper in {bench.choose("fast") for _ in range(2)}
    moved = servers("slow-0", "other-0", "fast-0")
    bench.table = ring(moved, 3)
    again = bench.choose("fast")
    assert again is not None and again is not keeper, "another address is another server"
