"""Copies are counted by hosts in the database, too: against a count by hand, in both of them."""

from __future__ import annotations

import random

import pytest

from mailarray.catalog.catalog import Catalog
from mailarray.contract.server_names import hosts, volume_name
from mailarray.model.ids import VolumeId
from tests.component.catalog.sidecar import BODY, Sidecar, message


async def joined(catalog: Catalog, *names: str) -> list[Sidecar]:
    sidecars = [Sidecar(catalog, name) for name in names]
    for sidecar in sidecars:
        await sidecar.join()
    return sidecars


async def seal(catalog: Catalog, writer: Sidecar, mirror: VolumeId) -> None:
    writer.mirror = mirror
    writer.next_segment()
    await writer.register(message("a@x"))
    assert await catalog.propose_seal(writer.segment, BODY, writer.epoch) == BODY


@pytest.mark.parametrize("seed", range(3))
async def test_short_is_what_too_few_hosts_hold(catalog: Catalog, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    names = [volume_name(f"mail-{host}", number) for host in range(3) for number in range(3)]
    sidecars = await joined(catalog, *names)
    servers = {sidecar.volume: sidecar.name for sidecar in sidecars}
    held: dict[bytes, set[VolumeId]] = {}
    for _ in range(12):
        writer, mirror = chance.sample(sidecars, 2)
        await seal(catalog, writer, mirror.volume)
        copies = chance.sample(sidecars, chance.randint(0, 2))
        for copy in copies:
            await catalog.add_replica(writer.segment.id, copy.volume, BODY)
        held[writer.segment.id] = {writer.volume, mirror.volume, *(copy.volume for copy in copies)}
    for _ in range(5):
        counting = {sidecar.volume for sidecar in chance.sample(sidecars, 6)}
        expected = {segment for segment, volumes in held.items() if hosts(volumes & counting, servers) < 2}
        found = await catalog.short_segments(counting)
        assert {one.facts.id for one in found.short} == expected
    everyone = sum(hosts(volumes, servers) < 2 for volumes in held.values())
    assert (await catalog.counts()).under_replicated_segments == everyone


async def test_a_member_that_was_never_heard_is_a_host_of_its_own(catalog: Catalog) -> None:
    zero, further = await joined(catalog, "mail-0", "mail-0.1")
    await seal(catalog, zero, VolumeId(bytes(range(16))))
    assert (await catalog.counts()).under_replicated_segments == 0
    await seal(catalog, zero, further.volume)
    assert (await catalog.counts()).under_replicated_segments == 1


async def test_a_catalog_opens_without_the_volumes_of_one_server_and_not_of_two(catalog: Catalog) -> None:
    sidecars = await joined(catalog, "mail-0", "mail-0.1", "mail-1", "mail-1.1", "mail-2")
    epoch = await catalog.reset()
    everyone = [sidecar.volume for sidecar in sidecars]
    first, _, second, _, third = everyone
    assert not await catalog.caught_up(first, epoch, everyone, 2)
    assert not await catalog.caught_up(third, epoch, everyone, 2)  # a volume of mail-0 and both of mail-1
    assert not await catalog.caught_up(second, epoch, everyone, 2)
    assert await catalog.caught_up(sidecars[1].volume, epoch, everyone, 2)
