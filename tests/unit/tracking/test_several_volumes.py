"""Repair never counts two volumes of one host as two copies, nor aims at them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.contract.mirroring_table import Server
from mailarray.contract.server_names import volume_name
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.targets import begins_after, held_on, order

segments = st.binary(min_size=16, max_size=16).map(SegmentId)


def vid(host: int, number: int) -> VolumeId:
    return VolumeId((host * 100 + number).to_bytes(16, "big"))


def array(sizes: list[int], zones: str = "a") -> dict[VolumeId, Server]:
    return {
        vid(host, number): Server(volume_name(f"mail-{host}", number), "", "", zones[host % len(zones)], f"n{host}")
        for host, size in enumerate(sizes)
        for number in range(size)
    }


arrays = st.lists(st.integers(1, 4), min_size=1, max_size=6).flatmap(
    lambda sizes: st.sampled_from(["a", "ab", "abc"]).map(lambda zones: array(sizes, zones))
)


@settings(max_examples=150, deadline=None)
@given(segments, arrays, st.data())
def test_the_first_targets_are_on_hosts_of_their_own(
    segment: SegmentId, servers: dict[VolumeId, Server], data: st.DataObject
) -> None:
    holders = data.draw(st.sets(st.sampled_from(list(servers)), max_size=3))
    lost = data.draw(st.sets(st.sampled_from([server.name for server in servers.values()]), max_size=3))
    missing = data.draw(st.integers(1, 4))
    targets = order(segment, servers, holders, lost, missing)
    holding = {servers[volume].host for volume in holders}
    assert not holding & {servers[volume].host for volume in targets}
    hosts = {server.host for server in servers.values()} - holding
    first = [servers[volume].host for volume in targets[: min(missing, len(hosts))]]
    assert len(set(first)) == len(first)
    assert {servers[volume].host for volume in targets} == hosts


@settings(max_examples=100, deadline=None)
@given(segments, arrays, st.integers(2, 4), st.randoms(use_true_random=False))
def test_whoever_is_late_or_dead_a_repair_ends_on_enough_hosts(
    segment: SegmentId, servers: dict[VolumeId, Server], copies: int, chance: object
) -> None:
    """Every volume goes by the rules alone; some never fetch, others finish in any order."""
    hosts = {server.host for server in servers.values()}
    first = next(iter(servers))
    dead = {volume for volume in servers if chance.random() < 0.3 and volume != first}  # type: ignore[attr-defined]
    alive = {server.host for volume, server in servers.items() if volume not in dead}
    holders = {first}
    for waited in range(0, 2000, 30):
        missing = copies - held_on(holders, servers)
        if missing <= 0:
            break
        targets = order(segment, servers, holders, (), missing)
        begun = [v for v in targets if v not in dead and (begins_after(targets, v, missing) or 0) <= waited]
        chance.shuffle(begun)  # type: ignore[attr-defined]
        holders.update(begun[: 1 + int(2 * chance.random())])  # type: ignore[attr-defined]
    assert len({servers[volume].host for volume in holders}) >= min(copies, len(alive), len(hosts))


def test_copies_on_one_host_are_one() -> None:
    servers = array([3, 1])
    assert held_on([vid(0, 0), vid(0, 2)], servers) == 1
    assert held_on([vid(0, 0), vid(1, 0), vid(9, 9)], servers) == 2
    assert order(SegmentId(bytes(16)), servers, {vid(0, 1)}, (), 1) == [vid(1, 0)]


def test_a_lost_volume_gets_its_own_mail_back() -> None:
    servers = array([2, 2, 2])
    for number in range(20):
        segment = SegmentId(number.to_bytes(16, "big"))
        assert order(segment, servers, {vid(1, 0)}, {"mail-0.1"}, 1)[0] == vid(0, 1)
