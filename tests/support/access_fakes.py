"""A fake array for tests of the access server: sidecars and writers on loopback ports, a catalog in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from crc32c import crc32c

from mailarray.access.server import AccessServer
from mailarray.access.session import LoginDelay
from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable
from mailarray.catalog.rows import Location, MailboxEntry, TombstoneRow
from mailarray.contract import mirroring_ring, mirroring_table, paths
from mailarray.contract.mirroring_table import Server
from mailarray.contract.settings import AccessSettings, CatalogSettings, DirectorySettings, Listen, TlsSettings
from mailarray.directory.directory import Account, NotFound
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId, new_message_id, new_segment_id

TOKEN = "a token for tests"
MAILBOX = "ann@mail.example"
PASSWORD = "correct horse"


class FakeCatalog:
    """A catalog in memory, which can go away and be closed."""

    def __init__(self) -> None:
        self.entries: dict[str, list[MailboxEntry]] = {}
        self.leases: dict[str, str] = {}
        self.expunged: list[TombstoneRow] = []
        self.away = False
        self.closed = False
        self.hangs = False
        self.released = asyncio.Event()

    async def _reach(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise CatalogUnavailable("away")

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        await self._reach()

    async def mailbox(self, address: str) -> list[MailboxEntry]:
        await self._reach()
        if self.closed:
            raise CatalogClosed
        return list(self.entries.get(address, ()))

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        await self._reach()
        self.expunged += tombstones
        gone = {t.placement for t in tombstones}
        for address, entries in self.entries.items():
            self.entries[address] = [e for e in entries if e.placement not in gone]

    async def acquire_lease(self, mailbox: str, holder: str, seconds: float) -> bool:
        await self._reach()
        return self.leases.setdefault(mailbox, holder) == holder

    async def release_lease(self, mailbox: str, holder: str) -> None:
        await self._reach()
        if self.leases.get(mailbox) == holder:
            del self.leases[mailbox]
        self.released.set()


class FakeDirectory:
    """One account, or more."""

    def __init__(self) -> None:
        self.passwords = {MAILBOX: PASSWORD}

    def resolve(self, recipient: str) -> Account | NotFound:
        return Account(recipient) if recipient in self.passwords else NotFound.RECIPIENT

    async def verify(self, login: str, password: str) -> Account | None:
        return Account(login) if self.passwords.get(login) == password else None


@dataclass
class FakeServer:
    """A sidecar and a writer in one, on one port. The switches say how it misbehaves."""

    name: str
    volume: VolumeId
    segments: dict[SegmentId, bytearray] = field(default_factory=dict)
    listing: list[dict[str, Any]] = field(default_factory=list)
    tombstones: list[dict[str, str]] = field(default_factory=list)
    hangs: bool = False
    hangs_after: int | None = None  # bytes of a segment's answer
    damages: bool = False
    cuts: bool = False  # breaks a segment's answer off in the middle
    refuses_tombstones: bool = False
    gets: int = 0
    port: int = 0
    unblock: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(middlewares=[self._token])
        app.router.add_get(paths.VOLUME, self._volume)
        app.router.add_get(paths.SEGMENT, self._segment)
        app.router.add_get(paths.MAILBOX, self._mailbox)
        app.router.add_post(paths.TOMBSTONES, self._tombstones)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.unblock.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _token(self, request: web.Request, handler: Any) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.hangs:
            await self.unblock.wait()
        response: web.StreamResponse = await handler(request)
        return response

    async def _volume(self, _request: web.Request) -> web.Response:
        return web.json_response({"volume": self.volume.hex(), "server": self.name, "stopping": False})

    async def _segment(self, request: web.Request) -> web.StreamResponse:
        self.gets += 1
        segment = self.segments.get(SegmentId(bytes.fromhex(request.match_info["segment"])))
        if segment is None or request.match_info["volume"] != self.volume.hex():
            raise web.HTTPNotFound
        data = bytes(segment[request.http_range])
        if self.damages:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.hangs_after is None and not self.cuts:
            return web.Response(status=206, body=data)
        response = web.StreamResponse(status=206, headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: self.hangs_after if self.hangs_after is not None else len(data) // 2])
        if self.cuts:
            assert request.transport is not None
            request.transport.abort()
        else:
            await self.unblock.wait()
        return response

    async def _mailbox(self, request: web.Request) -> web.Response:
        found = [m for m in self.listing if m["mailbox"] == request.match_info["mailbox"]]
        gone = [t["placement"] for t in self.tombstones]
        return web.json_response({"volume": self.volume.hex(), "messages": found, "tombstones": gone})

    async def _tombstones(self, request: web.Request) -> web.Response:
        if self.refuses_tombstones:
            raise web.HTTPServiceUnavailable
        self.tombstones += await request.json()
        return web.json_response({})


class FakeArray:
    """Some servers, a catalog and an access server; mail is put in with `deliver`."""

    def __init__(self, directory: Path, servers: int = 3) -> None:
        self.path = directory
        self.servers = [FakeServer(f"mail-{i}", VolumeId(bytes([i + 1]) * 16)) for i in range(servers)]
        self.catalog = FakeCatalog()
        self.directory = FakeDirectory()
        self.access: AccessServer | None = None
        self._uids = 0
        self._tail: tuple[SegmentId, tuple[int, ...]] | None = None

    async def start(self, delay: LoginDelay | None = None, **changes: Any) -> None:
        for server in self.servers:
            await server.start()
        self.write_table()
        (self.path / "token").write_text(TOKEN + "\n")
        self.access = AccessServer(self.settings(**changes), self.directory, self._connect, delay or LoginDelay(0.01))
        await self.access.start()

    async def _connect(self) -> FakeCatalog:
        return self.catalog

    async def stop(self) -> None:
        if self.access is not None:
            await self.access.stop()
        for server in self.servers:
            await server.stop()

    def write_table(self, generation: int = 1) -> None:
        peers = [Server(s.name, f"127.0.0.1:{s.port}", f"127.0.0.1:{s.port}") for s in self.servers]
        (self.path / "table").write_text(mirroring_table.dump(mirroring_ring.ring(peers, generation)))

    def settings(self, tls: TlsSettings | None = None, **changes: Any) -> AccessSettings:
        return AccessSettings(
            cluster="test",
            name="access-0",
            hostname="pop.mail.example",
            pop3=Listen(host="127.0.0.1", port=0),
            internal=Listen(host="127.0.0.1", port=0),
            token_file=str(self.path / "token"),
            mirroring_table_file=str(self.path / "table"),
            catalog=CatalogSettings(url="sqlite:///unused"),
            directory=DirectorySettings(domains=(), accounts_file="unused"),
            tls=tls,
            **changes,
        )

    @property
    def port(self) -> int:
        assert self.access is not None
        return self.access.listener.port

    def deliver(
        self,
        body: bytes,
        *,
        on: tuple[int, ...] = (0, 1),
        mailbox: str = MAILBOX,
        message: MessageId | None = None,
        gap: int = 200,
        new_segment: bool = False,
    ) -> PlacementId:
        """Put a message into a mailbox; it lies on the servers `on`, the one before in the same segment."""
        if new_segment or self._tail is None or self._tail[1] != on:
            self._tail = (new_segment_id(), on)
        segment = self._tail[0]
        message = message or new_message_id()
        offset = 0
        for index in on:
            stream = self.servers[index].segments.setdefault(segment, bytearray())
            stream += b"\0" * gap
            offset = len(stream)
            stream += body
        self._uids += 1
        members = tuple(self.servers[index].volume for index in on)
        placement = PlacementId(message, 0)
        location = Location(segment, offset, len(body), members)
        entry = MailboxEntry(self._uids, placement, message, len(body), crc32c(body), self._uids, (location,))
        self.catalog.entries.setdefault(mailbox, []).append(entry)
        row = {
            "mailbox": mailbox,
            "placement": str(placement),
            "message": message.hex(),
            "segment": segment.hex(),
            "offset": offset,
            "length": len(body),
            "checksum": crc32c(body),
            "received_at": self._uids,
            "members": [m.hex() for m in members],
        }
        for index in on:
            self.servers[index].listing.append(json.loads(json.dumps(row)))
        return placement
