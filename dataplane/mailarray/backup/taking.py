"""Making a backup: every sealed segment that the target does not have yet, then what the journals do not hold, then
the manifest.

Invariants:
- All mail, and every deletion, that was acknowledged before the backup began is in it, or is named as missing.
- A segment is copied once, however many volumes hold it and however many backups name it.
- The manifest is written last, after one more look that everything it names is there.

Memory is flat but for the list of segments. Files on the way lie in a scratch folder: one segment for each copy under
way, and a part for the flags and the accounts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailarray.backup import manifest
from mailarray.backup.accounts import AccountsSource
from mailarray.backup.manifest import BACKUPS, SEGMENTS, Manifest, MissingSegment, Part, StoredSegment
from mailarray.backup.source import Held, Source, Uncollectable, collect, sha256_of
from mailarray.backup.store import Store, TargetError
from mailarray.catalog.catalog import Catalog, CatalogUnavailable
from mailarray.catalog.rows import SealedRow
from mailarray.directory.accounts_file import AccountsError
from mailarray.directory.rows import AccountsUnavailable
from mailarray.model.ids import SegmentId

PARALLEL = 3  # segments under way: one is read, one checked, one written

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Planned:
    """What a backup is to hold."""

    held: tuple[Held, ...]
    missing: tuple[MissingSegment, ...]


def plan(held: Sequence[Held], rows: Sequence[SealedRow]) -> Planned:
    """What volumes hold against what the catalog says there should be. Pure.

    The catalog's L counts more than what a volume remembers (rule 10). A superseded segment is left out when the one
    in its place is there.
    """
    by_id = {one.segment: one for one in held}
    missing = []
    for row in rows:
        one = by_id.get(row.id)
        if row.superseded_by is not None:
            if row.superseded_by in by_id:
                by_id.pop(row.id, None)
            continue
        if one is None:
            if row.sealed_length != 0:
                missing.append(MissingSegment(row.id, row.sealed_length, "no server that answers holds it"))
        elif row.sealed_length == 0:
            del by_id[row.id]
        elif row.sealed_length is not None and row.sealed_length != one.length:
            by_id[row.id] = Held(row.id, row.sealed_length, one.volumes)
    return Planned(tuple(by_id[segment] for segment in sorted(by_id)), tuple(missing))


async def take(
    store: Store,
    source: Source,
    catalog: Catalog | None,
    accounts: AccountsSource | None,
    scratch: Path,
    progress: Progress,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Manifest:
    """Make one backup. Raises TargetError, SourceError; then there is none, and nothing older was touched."""
    began = now()
    id = manifest.backup_id(began)
    await manifest.check_target(store, make=True)
    stored = await manifest.stored_segments(store)
    held = await source.held()
    troubles: list[str] = []
    state, rows, volumes = None, [], []
    try:
        if catalog is not None:
            state = await catalog.state()
            rows = await all_rows(catalog)
            volumes = await catalog.volumes()
    except CatalogUnavailable as error:
        troubles.append(f"the catalog does not answer ({error}): flags are not in this backup")
        state = None
    if state is not None and not state.open:
        troubles.append("the catalog is being rebuilt: flags in this backup are those that it has so far")
    planned = plan(held, rows)
    copier = _Copier(store, source, stored, scratch, progress)
    segments = await copier.copy(planned.held)
    flags = await _flags(store, catalog, id, scratch) if catalog is not None and state is not None else None
    kept = await _accounts(store, accounts, id, scratch, troubles)
    missing = (*planned.missing, *copier.missing)
    if missing:
        troubles.append(f"{len(missing)} segments are not in this backup, see `missing` in its manifest")
    made = Manifest(
        id=id,
        began=began,
        ended=now(),
        segments=tuple(segments),
        missing=missing,
        epoch=None if state is None else state.epoch,
        uidvalidity=None if state is None else state.uidvalidity,
        volumes=tuple(
            {"volume": v.id.hex(), "server": v.server, "lost": v.lost, "retired": v.retired} for v in volumes
        ),
        flags=flags,
        accounts=kept,
        copied_segments=copier.copied_segments,
        copied_bytes=copier.copied_bytes,
        troubles=tuple(troubles),
    )
    there = {**await store.list(SEGMENTS), **await store.list(BACKUPS)}
    if any(there.get(name, -1) != (there.get(name) if size is None else size) for name, size in made.objects().items()):
        raise TargetError("objects were removed from the target meanwhile, by a `prune` as it seems; run it again")
    await store.put_bytes(made.name, made.encode())
    return made


async def all_rows(catalog: Catalog) -> list[SealedRow]:
    """Every page."""
    rows: list[SealedRow] = []
    while page := await catalog.segment_rows(rows[-1].number if rows else 0):
        rows += page
    return rows


class _Copier:
    """Brings to the target what it does not have."""

    def __init__(
        self,
        store: Store,
        source: Source,
        stored: dict[tuple[SegmentId, int], StoredSegment],
        scratch: Path,
        progress: Progress,
    ) -> None:
        self._store = store
        self._source = source
        self._stored = stored
        self._scratch = scratch
        self._progress = progress
        self.missing: list[MissingSegment] = []
        self.copied_segments = self.copied_bytes = 0

    async def copy(self, wanted: Sequence[Held]) -> list[StoredSegment]:
        """All of them, sorted; those that cannot be had whole are in `missing`. Raises TargetError."""
        new = [one for one in wanted if (one.segment, one.length) not in self._stored]
        total, done = sum(one.length for one in new), 0
        self._progress(done, total)
        left = iter(new)

        async def work(number: int) -> None:
            nonlocal done
            for one in left:
                await self._copy_one(one, self._scratch / f"segment-{number}")
                done += one.length
                self._progress(done, total)

        await run_all([work(number) for number in range(PARALLEL)])
        found = (self._stored.get((one.segment, one.length)) for one in wanted)
        return sorted(one for one in found if one is not None)

    async def _copy_one(self, one: Held, file: Path) -> None:
        try:
            digest = await collect(self._source, one, file)
            stored = StoredSegment(one.segment, one.length, digest)
            await self._store.put(stored.name, file)
        except Uncollectable as error:
            self.missing.append(MissingSegment(one.segment, one.length, str(error)))
            return
        except OSError as error:
            raise TargetError(f"{file.parent} cannot be written: {error.strerror}; give another --scratch") from None
        finally:
            file.unlink(missing_ok=True)
        self._stored[one.segment, one.length] = stored
        self.copied_segments += 1
        self.copied_bytes += one.length


async def run_all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Side by side; the first error ends all, and is raised as it is."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _flags(store: Store, catalog: Catalog, id: str, scratch: Path) -> Part:
    """JSON lines: {"mailbox": address, "flags": {placement: number}}. Raises CatalogUnavailable."""
    file, count, after = scratch / "flags", 0, (0, 0)
    try:
        with file.open("w", encoding="utf-8") as opened:
            while page := await catalog.flags(after):
                after, count = page[-1].key, count + len(page)
                boxes: dict[str, dict[str, int]] = {}
                for row in page:
                    boxes.setdefault(row.mailbox, {})[str(row.placement)] = row.flags
                for mailbox, flags in boxes.items():
                    opened.write(json.dumps({"mailbox": mailbox, "flags": flags}) + "\n")
        return await _keep(store, f"{BACKUPS}/{id}.flags", file, count)
    finally:
        file.unlink(missing_ok=True)


async def _accounts(
    store: Store, accounts: AccountsSource | None, id: str, scratch: Path, troubles: list[str]
) -> Part | None:
    if accounts is None:
        return None
    file = scratch / "accounts"
    try:
        count = await accounts.write(file)
        return await _keep(store, f"{BACKUPS}/{id}.accounts", file, count)
    except (AccountsError, AccountsUnavailable, OSError) as error:
        troubles.append(f"the accounts are not in this backup: {error}")
        return None
    finally:
        file.unlink(missing_ok=True)


async def _keep(store: Store, name: str, file: Path, rows: int) -> Part:
    part = Part(name, rows, await asyncio.to_thread(sha256_of, file))
    await store.put(name, file)
    return part
