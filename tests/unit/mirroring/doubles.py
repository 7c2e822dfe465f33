"""Mirrors without a network: fake links that keep real members on real volumes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from mailarray.contract.mirroring_ring import ring
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.format import MessageEntry, TombstonesEntry, decode_segment_header
from mailarray.journal.member import Member
from mailarray.journal.scan import read_batches, read_segment_header
from mailarray.journal.volume import Volume, open_volume
from mailarray.mirroring.announce import Announcer
from mailarray.mirroring.link import MirrorFailed
from mailarray.mirroring.mirrors import Mirrors
from mailarray.mirroring.writer import JournalWriter
from mailarray.model.ids import SegmentId
from mailarray.model.message import Committed, Delivery, IncomingMessage, Outcome
from mailarray.tracking.receiving import check_frames


class FakeLink:
    """A mirror that keeps what it is given in a real Member, and fails when it is told to."""

    def __init__(self, server: Server, volume: Volume) -> None:
        self.server = server
        self.volume = volume.id
        self.store = volume
        self.up = True  # answers
        self.ready = False  # known to answer
        self.full = False  # takes deletions only
        self.refusing = False  # refused a batch just now
        self.last_error = ""
        self.members: dict[SegmentId, Member] = {}
        self.touches = 0
        self.fail_after: int | None = None  # PUTs until it fails, durable nevertheless
        self.gate: asyncio.Event | None = None  # PUTs wait for it

    @property
    def due(self) -> bool:
        return not self.ready and not self.refusing

    async def probe(self) -> bool:
        self.ready = self.up
        return self.ready

    async def put(
        self, segment: SegmentId, offset: int, acknowledged: int, buffers: Iterable[bytes], length: int
    ) -> None:
        data = b"".join(buffers)
        assert len(data) == length
        if self.gate is not None:
            await self.gate.wait()
        if not self.up:
            self.ready = False
            raise MirrorFailed(f"{self.server.name}: down")
        member = self.members.setdefault(segment, Member(self.store, segment, own=False))
        assert offset == member.length, "an offset never gets other bytes"
        if not data:
            self.touches += 1
            return
        if member.fence_state.fenced:
            raise MirrorFailed(f"{self.server.name}: fenced")
        header, mark = check_frames(data, offset, member.header)
        assert self.volume in header.members
        assert mark == acknowledged
        member.write([data], offset)
        member.commit(header, offset + length, mark)
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                self.up = self.ready = False
                raise MirrorFailed(f"{self.server.name}: the answer was lost")

    def close(self) -> None:
        pass


class SilentAnnouncer(Announcer):
    """Remembers instead of sending."""

    def __init__(self) -> None:
        self.said: list[tuple[SegmentId, int] | None] = []
        self.left: dict[SegmentId, int] = {}

    def closed(self, segment: SegmentId, length: int) -> None:
        self.left[segment] = length

    def announce_soon(self) -> None:
        self.announce()

    def announce(self) -> None:
        _incarnation, _worker, segment, acknowledged = self.state()
        self.said.append(None if segment is None else (segment, acknowledged))

    def close(self) -> None:
        pass


def servers(count: int, zones: Sequence[str] = ()) -> list[Server]:
    places = zones or [""] * count
    return [Server(f"mail-{i}", f"127.0.0.1:{i + 1}", f"127.0.0.1:{i + 101}", places[i]) for i in range(count)]


class Bench:
    """One writer, mail-0, with fake mirrors mail-1, mail-2, ..."""

    def __init__(
        self, root: Path, mirrors: int = 2, disk: Disk | None = None, zones: Sequence[str] = (), **storage: object
    ) -> None:
        self.table: MirroringTable = ring(servers(mirrors + 1, zones), 1)
        self.volume = open_volume(root / "mail-0", disk or Disk())
        self.mirrors = Mirrors("mail-0", self.table, "token", 1.0)
        self.links = [FakeLink(s, open_volume(root / s.name, Disk())) for s in self.table.servers[1:]]
        self.attach()
        self.announcer = SilentAnnouncer()
        self.clock = 1000.0
        settings = StorageSettings(**{"reserve": 0, **storage})  # type: ignore[arg-type]
        self.writer = JournalWriter(
            self.volume, self.mirrors, settings, self.announcer, 10_000_000, now=lambda: self.clock
        )
        self.task: asyncio.Task[None] | None = None

    def attach(self) -> None:
        for link in self.links:
            if link.server.name in self.mirrors.links:
                self.mirrors.links[link.server.name] = link  # type: ignore[assignment]

    async def __aenter__(self) -> Bench:
        self.task = asyncio.create_task(self.writer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def submit(self, body: bytes = b"hello\r\n", *mailboxes: str) -> asyncio.Future[Outcome]:
        spool = self.writer.open_body()
        spool.write(body)
        heard: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        boxes = tuple(Delivery(box, box) for box in mailboxes or ("anna@mail.example",))
        self.writer.submit(IncomingMessage("s@out.example", boxes, spool.finish()), heard.set_result)
        return heard

    async def accept(self, body: bytes = b"hello\r\n") -> bytes:
        """Submit and be accepted; answers the message id."""
        outcome = await self.submit(body)
        assert isinstance(outcome, Committed), outcome
        return outcome.id


def held(volume: Volume) -> dict[SegmentId, dict[bytes, bytes]]:
    """What a volume's files say, record by record: segment -> message id -> body."""
    found: dict[SegmentId, dict[bytes, bytes]] = {}
    for segment in volume.list_segments():
        if not volume.segment_path(segment).exists():
            continue
        found[segment] = {}
        with volume.segment_path(segment).open("rb") as file:
            header = read_segment_header(file.fileno())
            data = volume.segment_path(segment).read_bytes()
            for batch in read_batches(file.fileno(), header, 0, len(data)):
                for entry in batch.entries:
                    if isinstance(entry, MessageEntry):
                        start = batch.header.bodies_offset + entry.body_offset
                        found[segment][entry.id] = data[start : start + entry.body_length]
                    else:
                        assert isinstance(entry, TombstonesEntry)
                        found[segment][entry.id] = repr(entry.tombstones).encode()
    return found


def members_of(volume: Volume, segment: SegmentId) -> int:
    return len(decode_segment_header(volume.segment_path(segment).read_bytes()).members)
