"""An array that runs, over the internal ports of its servers: what a backup reads, and what a restore writes to.

The segments that are being written are fenced (rule 9), as sealers do it: their writers go on in new segments, nobody
waits, and within a moment the sidecars have sealed the old ones. So a backup is made of sealed segments alone, and has
everything that was acknowledged before it began. With the catalog away nothing can be sealed: then the longest length
among fenced members counts, which covers everything acknowledged (rule 8).

Invariant: all servers of the mirroring table but `copies` - 1 must answer, or there is no backup (as rule 20 has it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from mailarray.backup.source import Held, SourceError
from mailarray.contract import mirroring_table, paths
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import SegmentId, VolumeId, parse_id

ASK_SECONDS = 5.0  # for an answer from memory
LIST_SECONDS = 60.0  # for the list of all segments of a volume
SEAL_SECONDS = 30.0  # for the sidecars to seal what was fenced; it takes about one
LOOK_SECONDS = 0.25  # between two looks whether they did
STALL_SECONDS = 60.0  # without a byte, either way
CONNECT_SECONDS = 5.0
PIECE = 1024 * 1024  # bytes read or sent at a time

_FAILED = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class Row:
    """A segment on a volume, as its sidecar lists it."""

    length: int
    sealed_length: int | None
    replica: bool  # the volume is no original member


Listing = dict[VolumeId, dict[SegmentId, Row]]


class RunningArray:
    """See the module; a `Source`. Use within `async with`."""

    def __init__(self, table_file: Path, token_file: Path, copies: int) -> None:
        """Raises SourceError."""
        try:
            self.table: MirroringTable = mirroring_table.load(table_file)
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise SourceError(f"the array cannot be found: {error}") from None
        self._token = token
        self._copies = copies
        self._session: aiohttp.ClientSession | None = None
        self.servers: dict[VolumeId, Server] = {}  # of those that answered the last `listing`
        self.notes: list[str] = []

    async def __aenter__(self) -> RunningArray:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"{paths.TOKEN_SCHEME} {self._token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Source`."""
        if self._session is not None:
            await self._session.close()

    # -- reading ---------------------------------------------------------------------------------------
    async def listing(self) -> Listing:
        """What every volume holds. Raises SourceError when too few servers answer."""
        found: Listing = {}
        silent: list[str] = []
        self.servers = {}

        async def ask(server: Server) -> None:
            try:
                raw = await self._json("GET", server.sidecar, paths.VOLUME, ASK_SECONDS)
                volume = VolumeId(parse_id(raw["volume"]))
                listed = await self._json("GET", server.sidecar, paths.segments_path(volume.hex()), LIST_SECONDS)
                rows = {
                    SegmentId(parse_id(row["segment"])): Row(row["length"], row["sealed_length"], row["replica"])
                    for row in listed["segments"]
                }
            except _FAILED:
                silent.append(server.name)
                return
            self.servers[volume] = server
            found[volume] = rows

        await asyncio.gather(*(ask(server) for server in self.table.servers))
        if not found or len(silent) > self._copies - 1:
            raise SourceError(
                f"{len(silent)} of {len(self.table.servers)} servers do not answer ({', '.join(sorted(silent))}),"
                f" and only {self._copies - 1} may be silent; start them, or wait until they are back"
            )
        self.notes = [f"{name} does not answer; its mail is read from the other copies" for name in sorted(silent)]
        return found

    async def held(self) -> list[Held]:
        """See `Source`."""
        listing = await self.listing()
        unsealed = await self._unsealed(listing)
        lengths = await self._fence(unsealed)
        deadline = time.monotonic() + SEAL_SECONDS
        while (left := _left(unsealed, lengths, listing)) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            listing = await self.listing()
        if left:
            self.notes.append(f"{len(left)} segments were not sealed in time (is the catalog away?); they were fenced")
        sealed = _sealed_lengths(listing)
        wanted = {segment: lengths[segment] for segment in left if lengths.get(segment)} | sealed
        unread = [segment for segment in left if segment not in lengths]
        if unread:
            raise SourceError(f"segment {unread[0].hex()} can be neither sealed nor fenced; try again when all serve")
        return [
            Held(segment, length, _holders(listing, segment, length))
            for segment, length in sorted(wanted.items())
            if length
        ]

    async def _unsealed(self, listing: Listing) -> dict[SegmentId, set[VolumeId]]:
        """Segments that nobody knows a seal of, with those who have begun them: as sidecars list them, and as writers
        say, whose sidecars may not have heard yet."""
        sealed = _sealed_lengths(listing)
        found: dict[SegmentId, set[VolumeId]] = {}
        for volume, rows in listing.items():
            for segment, row in rows.items():
                if segment not in sealed and not row.replica and row.length:
                    found.setdefault(segment, set()).add(volume)

        async def ask(volume: VolumeId, server: Server) -> None:
            try:
                raw = await self._json("GET", server.writer, paths.STATUS, ASK_SECONDS)
                if raw["segment"] is not None:
                    found.setdefault(SegmentId(parse_id(raw["segment"])), set()).add(volume)
            except _FAILED:
                return  # no writer runs there: its mirrors hold what it had acknowledged

        await asyncio.gather(*(ask(volume, server) for volume, server in self.servers.items()))
        return {segment: volumes for segment, volumes in found.items() if segment not in sealed}

    async def _fence(self, segments: Mapping[SegmentId, set[VolumeId]]) -> dict[SegmentId, int]:
        lengths: dict[SegmentId, int] = {}

        async def fence(segment: SegmentId, volume: VolumeId) -> None:
            try:
                address = self.servers[volume].sidecar
                raw = await self._json("POST", address, paths.fence_path(volume.hex(), segment.hex()), ASK_SECONDS)
                lengths[segment] = max(lengths.get(segment, 0), int(raw["length"]))
            except _FAILED:
                return

        await asyncio.gather(*(fence(segment, volume) for segment, volumes in segments.items() for volume in volumes))
        return lengths

    async def read(self, volume: VolumeId, segment: SegmentId, start: int, end: int) -> AsyncIterator[bytes]:
        """See `Source`."""
        server = self.servers.get(volume)
        if server is None:
            raise SourceError(f"no server answers for volume {volume.hex()}")
        url = f"http://{server.sidecar}{paths.segment_path(volume.hex(), segment.hex())}"
        try:
            async with self._http.get(url, headers={"Range": f"bytes={start}-{end - 1}"}) as response:
                if response.status != 206:
                    raise SourceError(f"{server.name} answered {response.status} for segment {segment.hex()}")
                async for piece in response.content.iter_chunked(PIECE):
                    yield piece
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceError(f"{server.name} broke off: {error or type(error).__name__}") from None

    # -- writing ---------------------------------------------------------------------------------------
    async def bring(self, volume: VolumeId, segment: SegmentId, length: int, file: Path) -> None:
        """Make a volume hold a whole segment, durably. Raises SourceError with what the server said."""
        server = self.servers[volume]
        url = f"http://{server.sidecar}{paths.copy_path(volume.hex(), segment.hex(), length)}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
        try:
            with file.open("rb") as opened:
                headers = {"Content-Length": str(length)}
                async with self._http.post(url, data=opened, headers=headers, timeout=timeout) as response:
                    if response.status != 200:
                        said = await response.json()
                        raise SourceError(f"{server.name} does not take segment {segment.hex()}: {said['error']}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
            raise SourceError(f"{server.name} broke off: {error or type(error).__name__}") from None

    # -- HTTP ------------------------------------------------------------------------------------------
    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use it within `async with`"
        return self._session

    async def _json(self, method: str, address: str, path: str, seconds: float) -> Any:
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self._http.request(method, f"http://{address}{path}", timeout=timeout) as response:
            response.raise_for_status()
            return await response.json()


def _sealed_lengths(listing: Listing) -> dict[SegmentId, int]:
    """The longest L that any volume remembers; the catalog's own counts more (`taking.py`)."""
    found: dict[SegmentId, int] = {}
    for rows in listing.values():
        for segment, row in rows.items():
            if row.sealed_length is not None:
                found[segment] = max(found.get(segment, 0), row.sealed_length)
    return found


def _left(segments: Collection[SegmentId], lengths: Mapping[SegmentId, int], listing: Listing) -> set[SegmentId]:
    """Those that are not sealed yet; one that has no byte, since its first batch was under way, will not be."""
    return {segment for segment in segments if lengths.get(segment) != 0} - set(_sealed_lengths(listing))


def _holders(listing: Listing, segment: SegmentId, length: int) -> tuple[VolumeId, ...]:
    """Volumes with bytes of it, those that have it whole first."""
    having = [(rows[segment].length < length, volume) for volume, rows in listing.items() if segment in rows]
    return tuple(volume for _, volume in sorted(having))
