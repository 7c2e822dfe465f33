"""Making the catalog again from the journals (patent: the tracking tables can be rebuilt from what the array holds).

Every segment with a remembered L is registered from the first volume that has it whole; unsealed ones are left to
their servers, which seal and register them as after any crash. Expunged mail stays expunged: tombstones are records
like mail, and registration checks them in whatever order they come (rule 21). Memory is flat: one run at a time.

What a compacted segment stands for is not registered when some volume noted that it counts (rule 23); the servers tell
the catalog so when they run, and drop what is left of it.

The catalog stays closed to readers until the sidecars have said that they registered all (rule 19); servers may run
meanwhile, and then do the same work beside this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailarray.catalog.catalog import Catalog, EpochPassed, SealRefused
from mailarray.catalog.rows import NotRegistered, Registration, SegmentFacts
from mailarray.journal.closing import read_closing
from mailarray.journal.disk import Disk
from mailarray.journal.fence import load_fence
from mailarray.journal.format import FormatError
from mailarray.journal.scan import read_segment_header
from mailarray.journal.volume import Volume, VolumeError, read_volume
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.registering import DamagedRun, read_run

RECORDS_AT_ONCE = 2000  # in one transaction; nobody else waits for a closed catalog


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild did."""

    messages: int = 0
    tombstones: int = 0
    segments: int = 0
    left_open: int = 0  # unsealed segments, left to their servers
    troubles: list[str] = field(default_factory=list)  # sentences


Progress = Callable[[int, int], None]  # bytes done, bytes in all


async def rebuild(catalog: Catalog, volumes: Sequence[tuple[str, Path]], progress: Progress) -> Rebuilt:
    """Drop the catalog's rows and register everything that the volumes (server name, directory) hold sealed.

    Raises CatalogUnavailable, VolumeError.
    """
    opened = [(server, read_volume(path, Disk())) for server, path in volumes]
    epoch = await catalog.reset()
    for server, volume in opened:
        await catalog.check_in(volume.id, server, 0, 0, serving=False)
    done = Rebuilt()
    found = _sealed_segments([volume for _, volume in opened], done)
    total = sum(length for _, _, length in found)
    behind = 0
    for segment, holders, length in found:
        if not await _register_from_any(
            catalog, epoch, segment, holders, length, done, lambda n: progress(n, total), behind
        ):
            done.troubles.append(f"segment {segment.hex()} could not be registered whole; its servers will try again")
        behind += length
        done.segments += 1
        progress(behind, total)
    return done


def _sealed_segments(volumes: Sequence[Volume], done: Rebuilt) -> list[tuple[SegmentId, list[Volume], int]]:
    """Oldest first, so that UIDs follow the order of arrival as nearly as can be."""
    holders: dict[SegmentId, list[Volume]] = {}
    lengths: dict[SegmentId, tuple[int, int]] = {}
    superseded: set[SegmentId] = set()
    for volume in volumes:
        for segment in volume.list_segments():
            try:
                fence = load_fence(volume, segment)
            except VolumeError as error:
                done.troubles.append(str(error))
                holders.setdefault(segment, []).append(volume)
                continue
            if fence.dropped:
                superseded.add(segment)
                continue
            holders.setdefault(segment, []).append(volume)
            if fence.sealed_length is not None:
                lengths[segment] = max(lengths.get(segment, (0, 0)), (fence.epoch, fence.sealed_length))
                if fence.counts:
                    superseded |= _stood_for(volume, segment, fence.sealed_length)
    done.left_open = len(holders.keys() - lengths.keys() - superseded)
    return [(segment, holders[segment], lengths[segment][1]) for segment in sorted(lengths.keys() - superseded)]


def _stood_for(volume: Volume, segment: SegmentId, sealed_length: int) -> set[SegmentId]:
    try:
        with volume.segment_path(segment).open("rb") as file:
            return set(read_closing(file.fileno(), segment, sealed_length))
    except OSError:
        return set()


async def _register_from_any(
    catalog: Catalog,
    epoch: int,
    segment: SegmentId,
    holders: Sequence[Volume],
    length: int,
    done: Rebuilt,
    progress: Callable[[int], None],
    behind: int,
) -> bool:
    cursor = 0
    for volume in holders:
        try:
            fd = os.open(volume.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            header = read_segment_header(fd)
            facts = SegmentFacts(
                segment, header.writer, header.incarnation, header.worker, header.members, header.copies
            )
            sealed = await catalog.propose_seal(facts, length, epoch)
            limit = min(sealed, os.fstat(fd).st_size)
            while cursor < limit:
                run = read_run(fd, segment, header.length, cursor, limit, RECORDS_AT_ONCE)
                result = await catalog.register(
                    volume.id, Registration(facts, epoch, run.start, run.end, sealed, run.messages, run.tombstones)
                )
                if not isinstance(result, NotRegistered):
                    cursor = run.end
                    done.messages += len(run.messages)
                    done.tombstones += len(run.tombstones)
                elif result.reason == "cursor" and result.cursor > cursor:
                    cursor = result.cursor  # a server that runs does the same work
                else:
                    break
                progress(behind + cursor)
            rows = await catalog.segments([segment])
            if segment in rows and rows[segment].cursor >= sealed:
                await _tell_replicas(catalog, segment, header.members, holders, sealed)
                return True
            cursor = rows[segment].cursor if segment in rows else 0
        except (DamagedRun, EpochPassed, FormatError, SealRefused) as error:
            done.troubles.append(f"segment {segment.hex()} on {volume.path}: {error}")
        finally:
            os.close(fd)
    return False


async def _tell_replicas(
    catalog: Catalog, segment: SegmentId, members: Sequence[VolumeId], holders: Sequence[Volume], sealed: int
) -> None:
    """Repaired copies, beyond the members that the header names."""
    for volume in holders:
        path = volume.segment_path(segment)
        if volume.id not in members and path.exists() and path.stat().st_size >= sealed:
            await catalog.add_replica(segment, volume.id, sealed)
