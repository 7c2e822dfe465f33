"""Who fetches a copy: every sidecar names the same ones, and the better ones first."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mailarray.catalog.rows import VolumeRow
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.targets import RANK_SECONDS, begins_after, counting, order

segments = st.binary(min_size=16, max_size=16).map(SegmentId)


def vid(number: int) -> VolumeId:
    return VolumeId(number.to_bytes(16, "big"))


def server(number: int, zone: str = "", node: str = "", state: str = "Serving") -> Server:
    return Server(f"mail-{number}", f"h{number}:1", f"h{number}:2", zone, node or f"n{number}", state)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[VolumeId, Server], set[VolumeId], set[str], int]:
    size = draw(st.integers(1, 8))
    servers = {vid(i): server(i, draw(st.sampled_from("abc")), draw(st.sampled_from("xyz"))) for i in range(size)}
    holders = draw(st.sets(st.sampled_from([*servers, vid(99)]), max_size=3))
    rebuilding = draw(st.sets(st.sampled_from([s.name for s in servers.values()]), max_size=2))
    return servers, holders, rebuilding, draw(st.integers(1, 3))


@given(segments, scenes(), st.randoms())
def test_everybody_names_the_same_targets_and_none_that_holds_a_copy(
    segment: SegmentId, scene: tuple[dict[VolumeId, Server], set[VolumeId], set[str], int], dice: random.Random
) -> None:
    servers, holders, rebuilding, missing = scene
    targets = order(segment, servers, holders, rebuilding, missing)
    assert sorted(targets) == sorted(set(servers) - holders)
    shuffled = list(servers.items())
    dice.shuffle(shuffled)
    assert order(segment, dict(shuffled), holders, rebuilding, missing) == targets


@given(segments, scenes())
def test_a_rebuild_comes_first_and_then_another_zone(
    segment: SegmentId, scene: tuple[dict[VolumeId, Server], set[VolumeId], set[str], int]
) -> None:
    servers, holders, rebuilding, missing = scene
    targets = order(segment, servers, holders, rebuilding, missing)
    own = [servers[volume].name in rebuilding for volume in targets]
    assert own == sorted(own, reverse=True)
    zones = {servers[volume].zone for volume in holders if volume in servers}
    for position, volume in enumerate(targets[:missing]):
        rest = [
            v for v in targets[position:] if (servers[v].name in rebuilding) == (servers[volume].name in rebuilding)
        ]
        if any(servers[v].zone not in zones for v in rest):
            assert servers[volume].zone not in zones
        zones.add(servers[volume].zone)


@given(segments, st.integers(2, 8), st.integers(0, 7))
def test_a_server_that_goes_changes_nothing_among_the_others(segment: SegmentId, size: int, gone: int) -> None:
    servers = {vid(i): server(i) for i in range(size)}
    before = order(segment, servers, (), (), 1)
    servers.pop(vid(gone), None)
    assert order(segment, servers, (), (), 1) == [volume for volume in before if volume != vid(gone)]


def test_segments_are_spread_over_all_targets() -> None:
    servers = {vid(i): server(i) for i in range(5)}
    dice = random.Random(7)
    first = Counter(order(SegmentId(dice.randbytes(16)), servers, {vid(0)}, (), 1)[0] for _ in range(2000))
    assert set(first) == set(servers) - {vid(0)}
    assert max(first.values()) < 1.2 * min(first.values())


def test_later_targets_wait_for_their_turn() -> None:
    targets = [vid(i) for i in range(4)]
    assert [begins_after(targets, volume, 2) for volume in targets] == [0, 0, RANK_SECONDS, 2 * RANK_SECONDS]
    assert begins_after(targets, vid(9), 2) is None


def test_only_current_volumes_of_serving_servers_count() -> None:
    servers = (server(0), server(1, state="Draining"), server(2), server(3), server(4, state="Resting"))
    rows = [
        VolumeRow(vid(10), "mail-0", True),
        VolumeRow(vid(11), "mail-0", False),
        VolumeRow(vid(12), "mail-1", False),
        VolumeRow(vid(13), "mail-2", False, True),
        VolumeRow(vid(14), "mail-4", False),
        VolumeRow(vid(15), "mail-5", False),
    ]
    assert counting(MirroringTable(1, servers, {}), rows) == {vid(11): servers[0]}
