"""The catalog on a database: `open_catalog` for sidecars and access servers, `migrate` for launchers.

Opening does not connect: a server starts, and takes mail, with the catalog away. The schema is looked at, and
brought up to date, before the first call that reaches the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from mailarray.catalog import (
    backing_up,
    compaction,
    damage,
    duplicates,
    figures,
    leases,
    locate,
    mailboxes,
    metrics,
    missing,
    replicas,
    sealing,
    surplus,
    usage,
    volumes,
    zones,
)
from mailarray.catalog.catalog import Catalog, CatalogUnavailable
from mailarray.catalog.engine import SCAN_SECONDS, Engine
from mailarray.catalog.rows import (
    CatalogCounts,
    CatalogState,
    CheckIn,
    Duplicate,
    FlagRow,
    LookedAt,
    MailboxEntry,
    NamedSegments,
    NotRegistered,
    Registered,
    Registration,
    SealedRow,
    SegmentFacts,
    SegmentState,
    ShortSegment,
    ShortSegments,
    Superseded,
    TombstoneRow,
    VolumeRow,
    WaitsFor,
    WornSegment,
)
from mailarray.model.ids import IncarnationId, MessageId, PlacementId, SegmentId, VolumeId


async def open_catalog(url: str | Callable[[], str]) -> Catalog:
    """The catalog at `sqlite:///absolute/path` or `postgresql://user:password@host:port/name`.

    A function is asked for the URL before each connection: a password may change. What it raises as ValueError is a
    CatalogUnavailable here. Raises ValueError for any other URL.
    """
    return DatabaseCatalog(_engine(url))


async def migrate(url: str | Callable[[], str]) -> None:
    """Bring the schema up to date; any number of processes may do so at once. Raises CatalogUnavailable."""
    engine = _engine(url)
    try:
        await engine.migrate()
    finally:
        await engine.close()


def _engine(url: str | Callable[[], str]) -> Engine:
    if callable(url):
        current = url
        try:
            parsed = _parse(current())
        except ValueError as error:
            raise CatalogUnavailable(str(error)) from error
    else:
        parsed = _parse(url)
    # Imported here, so that a process loads only the driver that it uses.
    if parsed.drivername == "sqlite" and parsed.database:
        from mailarray.catalog.engine_sqlite import SqliteEngine

        return SqliteEngine(Path(parsed.database))
    if parsed.drivername == "postgresql":
        from mailarray.catalog.engine_postgresql import PostgresEngine

        return PostgresEngine(parsed, (lambda: _parse(current())) if callable(url) else None)
    raise ValueError(f"the catalog's URL must begin with sqlite:/// or postgresql://, not {parsed.drivername}:")


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # its text may hold a password: not shown
        raise ValueError("the catalog's URL is not a database URL, like postgresql://user:password@host/name") from None


class DatabaseCatalog:
    """`Catalog`, by name of the operation; what each does stands in the file of its concern."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._migrated = False
        self._migrating = asyncio.Lock()

    async def close(self) -> None:
        """See `Catalog`."""
        await self._engine.close()

    async def check_in(
        self,
        volume: VolumeId,
        server: str,
        epoch: int,
        counter: int,
        serving: bool = True,
        counters: Mapping[VolumeId, int] | None = None,
        instead: Collection[VolumeId] = (),
    ) -> CheckIn:
        """See `Catalog`."""
        heard = None if counters is None else frozenset(counters.items())
        ousted = frozenset(instead)
        async with self._call("check_in") as engine:
            return await engine.write(
                lambda c: volumes.check_in(c, volume, server, epoch, counter, serving, heard, ousted), alone=True
            )

    async def caught_up(self, volume: VolumeId, epoch: int, expected: Iterable[VolumeId], copies: int) -> bool:
        """See `Catalog`."""
        wanted = frozenset(expected)
        async with self._call("caught_up") as engine:
            return await engine.write(lambda c: volumes.caught_up(c, volume, epoch, wanted, copies), alone=True)

    async def introduce(self, servers: Mapping[VolumeId, str]) -> None:
        """See `Catalog`."""
        async with self._call("introduce") as engine:
            await engine.write(lambda c: volumes.introduce(c, servers), alone=True)

    async def mark_lost(self, volume: VolumeId) -> None:
        """See `Catalog`."""
        async with self._call("mark_lost") as engine:
            await engine.write(lambda c: volumes.mark_lost(c, volume), alone=True)

    async def mark_retired(self, volume: VolumeId) -> None:
        """See `Catalog`."""
        async with self._call("mark_retired") as engine:
            await engine.write(lambda c: volumes.mark_retired(c, volume), alone=True)

    async def volumes(self) -> list[VolumeRow]:
        """See `Catalog`."""
        async with self._call("volumes") as engine:
            return await engine.read(volumes.volumes)

    async def waits_for(self) -> WaitsFor | None:
        """See `Catalog`."""
        async with self._call("waits_for") as engine:
            return await engine.read(volumes.waits_for)

    async def beat(self, volume: VolumeId, incarnation: IncarnationId, worker: int, counter: int) -> None:
        """See `Catalog`."""
        async with self._call("beat") as engine:
            await engine.write(lambda c: volumes.beat(c, volume, incarnation, worker, counter))

    async def beats(self) -> dict[tuple[VolumeId, IncarnationId, int], int]:
        """See `Catalog`."""
        async with self._call("beats") as engine:
            return await engine.read(volumes.beats)

    async def segments(self, ids: Sequence[SegmentId]) -> dict[SegmentId, SegmentState]:
        """See `Catalog`."""
        async with self._call("segments") as engine:
            return await engine.read(lambda c: sealing.segments(c, ids))

    async def unsealed_segments(self, member: VolumeId) -> list[SegmentState]:
        """See `Catalog`."""
        async with self._call("unsealed_segments") as engine:
            return await engine.read(lambda c: sealing.unsealed_segments(c, member))

    async def propose_seal(self, segment: SegmentFacts, length: int, epoch: int) -> int:
        """See `Catalog`."""
        async with self._call("propose_seal") as engine:
            return await engine.write(lambda c: sealing.propose_seal(c, segment, length, epoch))

    async def lower_seal(
        self, segment: SegmentId, sealed_length: int, length: int, asked: Collection[VolumeId]
    ) -> bool:
        """See `Catalog`."""
        async with self._call("lower_seal") as engine:
            return await engine.write(
                lambda c: sealing.lower_seal(c, segment, sealed_length, length, asked), SCAN_SECONDS, alone=True
            )

    async def add_replica(self, segment: SegmentId, volume: VolumeId, length: int) -> bool:
        """See `Catalog`."""
        async with self._call("add_replica") as engine:
            return await engine.write(lambda c: replicas.add_replica(c, segment, volume, length))

    async def surplus_segments(self, volume: VolumeId, counting: Collection[VolumeId]) -> list[ShortSegment]:
        """See `Catalog`."""
        async with self._call("surplus_segments") as engine:
            return await engine.read(lambda c: surplus.surplus_segments(c, volume, counting), SCAN_SECONDS)

    async def give_back(
        self, segment: SegmentId, volume: VolumeId, length: int, staying: Collection[VolumeId], epoch: int
    ) -> int | None:
        """See `Catalog`."""
        async with self._call("give_back") as engine:
            return await engine.write(lambda c: surplus.give_back(c, segment, volume, length, staying, epoch))

    async def replicas_on(self, volume: VolumeId) -> set[SegmentId]:
        """See `Catalog`."""
        async with self._call("replicas_on") as engine:
            return await engine.read(lambda c: surplus.replicas_on(c, volume), SCAN_SECONDS)

    async def forget_replicas(self, volume: VolumeId, segments: Collection[SegmentId]) -> None:
        """See `Catalog`."""
        async with self._call("forget_replicas") as engine:
            await engine.write(lambda c: surplus.forget_replicas(c, volume, segments))

    async def short_segments(self, counting: Collection[VolumeId], before: LookedAt | None = None) -> ShortSegments:
        """See `Catalog`."""
        async with self._call("short_segments") as engine:
            return await engine.read(lambda c: replicas.short_segments(c, counting, before), SCAN_SECONDS)

    async def held_by_none_of(
        self, counting: Collection[VolumeId], others: Collection[VolumeId], before: LookedAt | None = None
    ) -> ShortSegments:
        """See `Catalog`."""
        async with self._call("held_by_none_of") as engine:
            return await engine.read(lambda c: zones.held_by_none_of(c, counting, others, before), SCAN_SECONDS)

    async def named_segments(self, member: VolumeId, after: int = 0) -> NamedSegments:
        """See `Catalog`."""
        async with self._call("named_segments") as engine:
            return await engine.read(lambda c: replicas.named_segments(c, member, after), SCAN_SECONDS)

    async def register(self, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
        """See `Catalog`."""
        async with self._call("register") as engine:
            answer = await engine.register(volume, registration)
        if isinstance(answer, Registered):
            metrics.REGISTERED.inc(len(registration.messages))
        else:
            metrics.REFUSED.labels(answer.reason).inc()
        return answer

    async def used(self, mailboxes: Collection[str]) -> dict[str, int | None]:
        """See `Catalog`."""
        async with self._call("used") as engine:
            return await engine.read(lambda c: usage.used(c, mailboxes))

    async def count_used(self, mailbox: str) -> int:
        """See `Catalog`."""
        async with self._call("count_used") as engine:
            return await engine.write(lambda c: usage.count_used(c, mailbox))

    async def owed_duplicates(self, volume: VolumeId, limit: int, first: PlacementId | None = None) -> list[Duplicate]:
        """See `Catalog`."""
        async with self._call("owed_duplicates") as engine:
            return await engine.read(lambda c: duplicates.owed(c, volume, limit, first))

    async def settle_duplicate(self, placement: PlacementId, instead: PlacementId | None = None) -> None:
        """See `Catalog`."""
        async with self._call("settle_duplicate") as engine:
            await engine.write(lambda c: duplicates.settle(c, placement, instead))

    async def forget_fingerprints(self, before: int, window: int) -> None:
        """See `Catalog`."""
        async with self._call("forget_fingerprints") as engine:
            await engine.write(lambda c: duplicates.forget(c, before, window))

    async def worn_segments(self, volume: VolumeId, percent: int) -> list[WornSegment]:
        """See `Catalog`."""
        async with self._call("worn_segments") as engine:
            return await engine.read(lambda c: compaction.worn_segments(c, volume, percent))

    async def note_wear(self, segment: SegmentId, seen: int, dead: int) -> None:
        """See `Catalog`."""
        async with self._call("note_wear") as engine:
            await engine.write(lambda c: compaction.note_wear(c, segment, seen, dead))

    async def claim_compaction(self, segments: Sequence[SegmentId], volume: VolumeId) -> set[SegmentId]:
        """See `Catalog`."""
        async with self._call("claim_compaction") as engine:
            return await engine.write(lambda c: compaction.claim(c, segments, volume))

    async def tombstoned(self, records: Sequence[bytes]) -> set[PlacementId]:
        """See `Catalog`."""
        async with self._call("tombstoned") as engine:
            return await engine.read(lambda c: compaction.tombstoned(c, records))

    async def supersede(self, output: SegmentFacts, length: int, inputs: Sequence[SegmentId], epoch: int) -> bool:
        """See `Catalog`."""
        async with self._call("supersede") as engine:
            return await engine.write(lambda c: compaction.supersede(c, output, length, inputs, epoch), alone=True)

    async def superseded_since(self, number: int) -> list[Superseded]:
        """See `Catalog`."""
        async with self._call("superseded_since") as engine:
            return await engine.read(lambda c: compaction.superseded_since(c, number))

    async def stands_for(self, segments: Sequence[SegmentId]) -> dict[SegmentId, SegmentId]:
        """See `Catalog`."""
        async with self._call("stands_for") as engine:
            return await engine.read(lambda c: compaction.stands_for(c, segments))

    async def forget_locations(self, segment: SegmentId, records: Sequence[tuple[MessageId, int]]) -> list[MessageId]:
        """See `Catalog`."""
        async with self._call("forget_locations") as engine:
            return await engine.write(lambda c: compaction.forget_locations(c, segment, records))

    async def forgotten(self, segment: SegmentId) -> None:
        """See `Catalog`."""
        async with self._call("forgotten") as engine:
            await engine.write(lambda c: compaction.forgotten(c, segment))

    async def mailbox(self, address: str) -> list[MailboxEntry]:
        """See `Catalog`."""
        async with self._call("mailbox") as engine:
            return await engine.read(lambda c: mailboxes.mailbox(c, address))

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        """See `Catalog`."""
        if tombstones:
            async with self._call("expunge") as engine:
                await engine.expunge(tombstones)

    async def acquire_lease(self, mailbox: str, holder: str, seconds: float) -> bool:
        """See `Catalog`."""
        async with self._call("acquire_lease") as engine:
            return await engine.write(lambda c: leases.acquire_lease(c, mailbox, holder, seconds))

    async def release_lease(self, mailbox: str, holder: str) -> None:
        """See `Catalog`."""
        async with self._call("release_lease") as engine:
            await engine.write(lambda c: leases.release_lease(c, mailbox, holder))

    async def ping(self) -> None:
        """See `Catalog`."""
        async with self._call("ping") as engine:
            await engine.read(lambda c: c.exec_driver_sql("SELECT 1").scalar_one())

    async def messages_within(
        self, segment: SegmentId, start: int, end: int
    ) -> list[tuple[MessageId, tuple[str, ...]]]:
        """See `Catalog`."""
        async with self._call("messages_within") as engine:
            return await engine.read(lambda c: damage.messages_within(c, segment, start, end), SCAN_SECONDS)

    async def missing(self) -> missing.Missing:
        """See `Catalog`."""
        async with self._call("missing") as engine:
            return await engine.read(missing.missing, SCAN_SECONDS)

    async def locate(self, record: bytes) -> locate.Answer:
        """See `Catalog`."""
        async with self._call("locate") as engine:
            return await engine.read(lambda c: locate.locate(c, record), SCAN_SECONDS)

    async def counts(self) -> CatalogCounts:
        """See `Catalog`."""
        async with self._call("counts") as engine:
            return await engine.read(figures.counts, SCAN_SECONDS)

    async def reset(self) -> int:
        """See `Catalog`."""
        async with self._call("reset") as engine:
            return await engine.write(volumes.reset, SCAN_SECONDS, alone=True)

    async def state(self) -> CatalogState:
        """See `Catalog`."""
        async with self._call("state") as engine:
            return await engine.read(backing_up.catalog_state)

    async def segment_rows(self, after: int = 0) -> list[SealedRow]:
        """See `Catalog`."""
        async with self._call("segment_rows") as engine:
            return await engine.read(lambda c: backing_up.segment_rows(c, after))

    async def mailbox_addresses(self, after: str = "") -> list[str]:
        """See `Catalog`."""
        async with self._call("mailbox_addresses") as engine:
            return await engine.read(lambda c: backing_up.mailbox_addresses(c, after))

    async def flags(self, after: tuple[int, int] = (0, 0)) -> list[FlagRow]:
        """See `Catalog`."""
        async with self._call("flags") as engine:
            return await engine.read(lambda c: backing_up.flags(c, after), SCAN_SECONDS)

    async def set_flags(self, rows: Sequence[FlagRow]) -> int:
        """See `Catalog`."""
        async with self._call("set_flags") as engine:
            return await engine.write(lambda c: backing_up.set_flags(c, rows), SCAN_SECONDS)

    async def raise_uidvalidity(self, above: int) -> None:
        """See `Catalog`."""
        async with self._call("raise_uidvalidity") as engine:
            await engine.write(lambda c: backing_up.raise_uidvalidity(c, above), SCAN_SECONDS, alone=True)

    @asynccontextmanager
    async def _call(self, name: str) -> AsyncIterator[Engine]:
        """Metrics around a call, and before the first one the schema."""
        begin = time.perf_counter()
        try:
            if not self._migrated:
                async with self._migrating:
                    if not self._migrated:
                        await self._engine.migrate()
                        self._migrated = True
            yield self._engine
        except CatalogUnavailable:
            metrics.FAILURES.labels(name).inc()
            self._migrated = False  # it may come back as another database: one restored, or a new one
            raise
        metrics.CALLS.labels(name).observe(time.perf_counter() - begin)
