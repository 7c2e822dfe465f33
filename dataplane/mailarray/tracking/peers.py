"""The other servers, as this sidecar reaches them: which address keeps which volume, fences, ranges of segments.

aiohttp; nothing here is on the way to a 250. A server that does not answer is reported as such, never as empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from mailarray.catalog.rows import TombstoneRow
from mailarray.contract import paths
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.journal.fence import FenceAnswer
from mailarray.model.ids import SegmentId, VolumeId, parse_id
from mailarray.tracking.ranges import RangeReader, RangeUnreadable

log = logging.getLogger(__name__)

TIMEOUT = 1.0  # seconds for a fence or a question
LISTING_TIMEOUT = 10.0  # seconds for the list of all segments of a volume
RANGE_TIMEOUT = 10.0  # seconds for one piece of a segment
BURY_TIMEOUT = 5.0  # seconds for a writer to acknowledge a tombstone, which may have to leave a dead mirror first
PIECE = 4 * 1024 * 1024  # bytes fetched at a time
READ_BUFFER = (
    1024 * 1024
)  # bytes of an answer before its sender is paused; the usual 64 KiB cost twice the processor time


class PeerUnreachable(Exception):
    """No answer that counts."""


class Peers:
    """See the module."""

    def __init__(self, own: str, token: str, table: Callable[[], MirroringTable]) -> None:
        self._own = own
        self._table = table
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"{paths.TOKEN_SCHEME} {token}"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            read_bufsize=READ_BUFFER,
        )
        self._ranges = RangeReader(token, RANGE_TIMEOUT)
        self._addresses: dict[VolumeId, str] = {}

    async def refresh(self) -> dict[VolumeId, str]:
        """Ask every other server which volume it has; answers volume -> server name of those that answered."""
        others = [server for server in self._table().servers if server.name != self._own]
        names: dict[VolumeId, str] = {}

        async def ask(name: str, address: str) -> None:
            try:
                raw = await self._json("GET", address, paths.VOLUME)
                volume = VolumeId(parse_id(raw["volume"]))
            except (PeerUnreachable, ValueError, KeyError):
                return
            self._addresses[volume] = address
            names[volume] = name

        await asyncio.gather(*(ask(server.name, server.sidecar) for server in others))
        return names

    async def fence(self, volume: VolumeId, segment: SegmentId) -> FenceAnswer:
        """Fence a member on another server. Raises PeerUnreachable."""
        raw = await self._on(volume, "POST", paths.fence_path(volume.hex(), segment.hex()))
        return _parse_fence(raw)

    async def fetch(self, volume: VolumeId, segment: SegmentId, start: int, end: int) -> bytes:
        """Bytes [start, end) of a segment from another server, or fewer. Raises PeerUnreachable."""
        address = await self._address(volume)
        try:
            async with self._session.get(
                f"http://{address}{paths.segment_path(volume.hex(), segment.hex())}",
                headers={"Range": f"bytes={start}-{end - 1}"},
                timeout=aiohttp.ClientTimeout(total=RANGE_TIMEOUT),
            ) as response:
                if response.status != 206:
                    raise PeerUnreachable(f"{address} answered {response.status}")
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PeerUnreachable(f"{address}: {error}") from error

    async def fetch_into(self, volume: VolumeId, segment: SegmentId, start: int, buffer: memoryview) -> int:
        """Likewise, into the caller's memory, at a tenth of the processor time; answers how many bytes came. When it is
        cancelled, bytes may still come into the buffer for a moment. Raises PeerUnreachable."""
        address = await self._address(volume)
        path = paths.segment_path(volume.hex(), segment.hex())
        try:
            return await self._ranges.read_into(address, path, start, buffer)
        except RangeUnreadable as error:
            raise PeerUnreachable(f"{address} {error}") from error

    async def held(self, volume: VolumeId, staying: bool = False) -> dict[SegmentId, int]:
        """Everything that a volume holds durably, as it says itself: segment -> bytes. `staying`: without what it is
        about to give back. Raises PeerUnreachable."""
        raw = await self._on(volume, "GET", paths.SEGMENTS.replace("{volume}", volume.hex()), LISTING_TIMEOUT)
        try:
            rows = [row for row in raw["segments"] if not (staying and row.get("leaving"))]
            return {SegmentId(parse_id(row["segment"])): int(row["length"]) for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise PeerUnreachable(f"volume {volume.hex()} does not say what it holds: {error}") from error

    async def stays(self, volume: VolumeId, segment: SegmentId, length: int, counts: bool) -> None:
        """Have a holder say that it holds the segment up to there, and goes on holding it; `counts`: and that it noted
        that a compacted one stands for its inputs. Raises PeerUnreachable with what it said instead."""
        path = paths.STAYS.replace("{volume}", volume.hex()).replace("{segment}", segment.hex())
        raw = await self._on(volume, "GET", f"{path}?length={length}")
        if not isinstance(raw, dict) or raw.get("stays") is not True:
            reason = raw.get("reason") if isinstance(raw, dict) else None
            raise PeerUnreachable(str(reason or "it does not say that it stays"))
        if counts and raw.get("counts") is not True:
            raise PeerUnreachable("it has not noted yet that the segment stands for its inputs")

    async def status(self, address: str) -> Any:
        """/v1/status of a process. Raises PeerUnreachable."""
        return await self._json("GET", address, paths.STATUS)

    async def bury(self, address: str, tombstones: Sequence[TombstoneRow]) -> None:
        """Have a writer journal tombstones; they are acknowledged when this returns. Raises PeerUnreachable."""
        body = [{"placement": str(t.placement), "message": t.message.hex(), "mailbox": t.mailbox} for t in tombstones]
        try:
            async with self._session.post(
                f"http://{address}{paths.TOMBSTONES}", json=body, timeout=aiohttp.ClientTimeout(total=BURY_TIMEOUT)
            ) as response:
                if response.status != 200:
                    raise PeerUnreachable(f"{address} answered {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PeerUnreachable(f"{address}: {error}") from error

    async def ask_writer(self, address: str, segment: SegmentId) -> FenceAnswer | None:
        """Fence on the own writer process (rule 9); None: it does not hold the segment. Raises PeerUnreachable."""
        raw = await self._json("POST", address, paths.writer_fence_path(segment.hex()), absent=404)
        return None if raw is None else _parse_fence(raw)

    async def _on(self, volume: VolumeId, method: str, path: str, seconds: float = TIMEOUT) -> Any:
        address = await self._address(volume)
        try:
            return await self._json(method, address, path, seconds=seconds)
        except PeerUnreachable:
            self._addresses.pop(volume, None)
            raise

    async def _address(self, volume: VolumeId) -> str:
        if volume not in self._addresses:
            await self.refresh()
        try:
            return self._addresses[volume]
        except KeyError:
            raise PeerUnreachable(f"no server answers for volume {volume.hex()}") from None

    async def _json(self, method: str, address: str, path: str, absent: int = 0, seconds: float = TIMEOUT) -> Any:
        try:
            timeout = aiohttp.ClientTimeout(total=seconds)
            async with self._session.request(method, f"http://{address}{path}", timeout=timeout) as response:
                if response.status == absent:
                    return None
                if response.status != 200:
                    raise PeerUnreachable(f"{address} answered {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise PeerUnreachable(f"{address}: {error}") from error

    async def close(self) -> None:
        """Give connections back."""
        self._ranges.close()
        await self._session.close()


def _parse_fence(raw: Any) -> FenceAnswer:
    try:
        return FenceAnswer.parse(raw)
    except ValueError as error:  # an answer that makes no sense does not count
        raise PeerUnreachable(str(error)) from error
