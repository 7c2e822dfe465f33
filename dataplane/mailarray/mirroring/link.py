"""What a writer knows of one candidate mirror: which volume it is, whether it answers, and the way to it.

A mirror that failed is left alone for a while, then probed; one that said it is stopping is left at once. The state
decides only who is tried first: whether a copy exists is known from the answer to its PUT alone.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from mailarray.contract import paths
from mailarray.contract.mirroring_table import Server
from mailarray.mirroring import metrics
from mailarray.mirroring.backoff import Backoff
from mailarray.mirroring.peer import PeerConnection, PeerError, Response, explain
from mailarray.model.ids import SegmentId, VolumeId, parse_id

log = logging.getLogger(__name__)

RETRY_AFTER = 1.0  # seconds until a failed mirror is probed again
MIN_MIRROR_RATE = 16 * 1024 * 1024  # bytes a second that a mirror's disk is given time for, beyond the mirror timeout


class MirrorFailed(Exception):
    """A mirror did not make a batch durable; its segment is over for the writer. The text says why."""


class LinkState(enum.Enum):
    """How a mirror answers."""

    UNKNOWN = "Unknown"
    READY = "InSync"
    FAILED = "Failed"
    STOPPING = "Stopping"
    FULL = "Full"


class MirrorLink:
    """One candidate mirror."""

    def __init__(self, server: Server, token: str, timeout: float, now: Callable[[], float]) -> None:
        self.server = server
        self.volume: VolumeId | None = None
        self.state = LinkState.UNKNOWN
        self.last_error = ""
        self._timeout = timeout
        self._now = now
        self._retry_at = 0.0
        self._refusals = Backoff(now)  # batches that it did not take, for reasons that hold for the next one, too
        self._probing: asyncio.Future[bool] | None = None
        self._seconds = metrics.MIRROR_SECONDS.labels(server.name)
        self._connection = PeerConnection(server.sidecar, token)  # batches only: the sidecar has a lean way for PUT
        self._questions = PeerConnection(server.sidecar, token)

    @property
    def ready(self) -> bool:
        """May be chosen for a new segment."""
        return self.state is LinkState.READY

    @property
    def full(self) -> bool:
        """Answers, and its volume is nearly full: deletions may be brought to it, mail may not."""
        return self.state is LinkState.FULL

    @property
    def due(self) -> bool:
        """Not ready, and it is time to ask again."""
        return self.state is not LinkState.READY and self._now() >= self._retry_at and not self.refusing

    @property
    def refusing(self) -> bool:
        """It refused a batch a moment ago: whatever it says of itself, it would refuse the next one, too."""
        return self._refusals.waiting

    async def probe(self) -> bool:
        """Ask who it is; answers whether it is ready now. Who asks while somebody else does hears the same answer."""
        if self._probing is None:
            self._probing = asyncio.ensure_future(self._probe())
            self._probing.add_done_callback(self._probed)
        return await asyncio.shield(self._probing)

    def _probed(self, _: asyncio.Future[bool]) -> None:
        self._probing = None

    async def _probe(self) -> bool:
        try:
            response = await self._questions.request("GET", paths.VOLUME, self._timeout)
            if response.status != 200:
                raise PeerError(f"it answered {response.status}")
            raw = json.loads(response.body)
            volume = VolumeId(parse_id(raw["volume"]))
            stopping, full = raw.get("stopping"), raw.get("full")
        except (PeerError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._fail(str(error))
            return False
        if stopping:
            self._leave(LinkState.STOPPING, "it is stopping")
            return False
        if full:
            self.volume = volume
            self._leave(LinkState.FULL, "its volume is nearly full")
            return False
        if self.state is not LinkState.READY:
            log.info("mirror ready", extra={"mirror": self.server.name, "mirror_volume": volume.hex()})
        self.volume = volume
        self.state = LinkState.READY
        return True

    def put(
        self, segment: SegmentId, offset: int, acknowledged: int, buffers: Iterable[bytes], length: int
    ) -> Awaitable[None]:
        """Hand bytes over; what is returned ends when the mirror has them durably, or raises MirrorFailed."""
        assert self.volume is not None
        target = f"{paths.segment_path(self.volume.hex(), segment.hex())}?offset={offset}&acknowledged={acknowledged}"
        patience = self._timeout + length / MIN_MIRROR_RATE
        answer = self._connection.send_now("PUT", target, patience, buffers, length)
        if answer is None:
            return self._put_slowly(target, patience, buffers, length)
        started = self._now()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: asyncio.Future[Response]) -> None:
            if done.done():
                return
            try:
                self._judge(answer.result(), length, started)
                done.set_result(None)
            except MirrorFailed as error:
                done.set_exception(error)
            except OSError as error:
                done.set_exception(self._failed(explain(error, patience)))

        answer.add_done_callback(answered)
        return done

    async def _put_slowly(self, target: str, patience: float, buffers: Iterable[bytes], length: int) -> None:
        started = self._now()
        try:
            response = await self._connection.request("PUT", target, self._timeout, buffers, length, patience)
        except PeerError as error:
            raise self._failed(error) from error
        except asyncio.CancelledError:
            self._connection.close()
            raise
        self._judge(response, length, started)

    def _failed(self, error: PeerError) -> MirrorFailed:
        self._fail(str(error))
        return MirrorFailed(f"{self.server.name}: {error}")

    def _judge(self, response: Response, length: int, started: float) -> None:
        if response.status == 200:
            if length:
                self._refusals.worked()
                self._seconds.observe(self._now() - started)
            return
        said = _said(response.body)
        reason = str(said.get("error", f"it answered {response.status}"))
        if response.status == 404:
            self._fail(reason)  # another volume by now: choose others, ask again later
        elif response.status == 507 and said.get("full"):
            self._leave(LinkState.FULL, reason)
        elif response.status in (503, 507):
            self._leave(LinkState.STOPPING if response.status == 503 else LinkState.FAILED, reason)
            self._refusals.failed()
        # 409 and 423 are about this segment only: the mirror itself stays ready.
        raise MirrorFailed(f"{self.server.name}: {reason}")

    def _fail(self, reason: str) -> None:
        self._leave(LinkState.FAILED, reason)

    def _leave(self, state: LinkState, reason: str) -> None:
        if self.state is not state:
            log.warning("mirror left", extra={"mirror": self.server.name, "state": state.value, "reason": reason})
        self.state = state
        self.last_error = reason
        self._retry_at = self._now() + RETRY_AFTER

    def close(self) -> None:
        """Drop the connections."""
        self._connection.close()
        self._questions.close()


def _said(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
