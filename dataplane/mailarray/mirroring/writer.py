"""The journal's writer: gathers what sessions submit into batches, and says 250 when a batch is on every member.

Invariants (rules 2, 5, 6, 7):

- `done(Committed)` is called only after `OpenSegment.append` returned for the batch that holds the message.
- After a restart nothing is appended to an old segment: this process knows only segments that it opened itself.
- A failed segment is left, not repaired: the batch in flight goes, under the same ids, to the next segment with the
  next candidates; no step waits for a person, none for the sealing of the old one.
- Every submitted message hears exactly one outcome.
- A draining server leaves its segment after each batch: what was on its way is taken, and then nothing is open.
- What is left of a volume below its reserve is for deletions, which give room back: they do not wait behind mail that
  is refused, and may go to mirrors that are nearly full, too, in segments that no mail goes to.

One commit is under way at a time; the next batch gathers meanwhile. Callers: the SMTP listener (as MessageSink), the
writer's internal port (tombstones, fence, mirroring table).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.settings import StorageSettings
from mailarray.journal.commit_thread import CommitThread
from mailarray.journal.fence import FenceAnswer
from mailarray.journal.format import Tombstone
from mailarray.journal.spool import SpoolWriter
from mailarray.journal.volume import Volume
from mailarray.mirroring import metrics
from mailarray.mirroring.announce import Announcer, State
from mailarray.mirroring.backoff import Backoff
from mailarray.mirroring.gather import (
    MAX_BATCH_BYTES,
    PendingMessage,
    PendingTombstones,
    deletions_first,
    gather,
)
from mailarray.mirroring.mirrors import Mirrors
from mailarray.mirroring.segment import Batch, OpenSegment, OwnDiskFailed, SegmentFailed, new_segment
from mailarray.model.ids import IncarnationId, SegmentId, new_incarnation_id
from mailarray.model.message import BodyWriter, IncomingMessage, Outcome, Refused

log = logging.getLogger(__name__)

HEARTBEAT = 0.5  # seconds between words to the sidecar and to the mirrors of an idle writer (rule 15)
WORTHWHILE_BATCH = 24  # records; a batch costs 600 microseconds of CPU on its own, and 30 for each record
COMPANY_PAUSE = 0.001  # seconds without a newcomer, after which a smaller batch goes
COMPANY_WAIT = 0.005  # seconds that it waits at most
MAX_ATTEMPTS = 5  # segments tried for one batch before its senders are asked to come back

NO_MIRROR = Refused(451, "4.3.0", "No mirror server can be reached, try again later")
NO_SPACE = Refused(452, "4.3.1", "Insufficient system storage")
DISK_FAILED = Refused(451, "4.3.0", "The mail could not be stored, try again later")
BUSY = Refused(451, "4.3.1", "Too much mail is waiting to be stored, try again later")
STOPPING = Refused(421, "4.3.2", "The server is stopping, try again later")


class JournalWriter:
    """See the module. `run` is its one task."""

    def __init__(
        self,
        volume: Volume,
        mirrors: Mirrors,
        settings: StorageSettings,
        announcer: Announcer,
        soft_pending_bytes: int,
        worker: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.volume = volume
        self.mirrors = mirrors
        self.incarnation: IncarnationId = new_incarnation_id()
        self.segment: OpenSegment | None = None
        self.pending_bytes = 0
        self.accepted = 0
        self.commits = 0  # ended so far, well or not
        self.commit_seconds = 0.0  # that they took together
        self.disk_error: str | None = None  # why the own volume failed; until it has taken something again
        self._settings = settings
        self._announcer = announcer
        announcer.state = self._state
        self._soft_pending_bytes = soft_pending_bytes
        self._worker = worker
        self._now = now
        self._queue: deque[PendingMessage | PendingTombstones] = deque()
        self._wake = asyncio.Event()
        self._enough = asyncio.Event()
        self._wanted = 0  # queued records for which the next batch stops waiting
        self._expected = 0  # records that will probably come, by the last batch
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = CommitThread("commit")
        self._turn = 0
        self._refusal: Refused | None = None
        self._stopping = False
        self._ended = False  # nothing takes from the queue any more
        self._row_changed = False
        self._disk = Backoff(now)  # the own volume's
        self._for_deletions = False  # the open segment has a mirror that takes no mail
        self._commit_began: float | None = None

    # -- MessageSink -----------------------------------------------------------------------------------
    def refusal(self) -> Refused | None:
        """Why no message can be taken now, or None."""
        if self._refusal is not None:
            return self._refusal
        if self.pending_bytes > self._soft_pending_bytes:
            return BUSY
        return None

    @property
    def draining(self) -> bool:
        """Whether this server is to be emptied: callers bring no new mail and no tombstones."""
        return self.mirrors.draining

    @property
    def at_rest(self) -> bool:
        """No segment is open, and nothing waits that would open one."""
        return self.segment is None and not self._queue and self._idle.is_set()

    def commit_age(self) -> float | None:
        """Seconds that the commit under way has taken so far; None when there is none."""
        return None if self._commit_began is None else self._now() - self._commit_began

    def open_body(self) -> BodyWriter:
        """A body that is spooled on this server's volume when it is large."""
        return SpoolWriter(self.volume.path)

    def submit(self, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        """Queue a message for the next batch."""
        if self._ended:
            message.body.release()
            asyncio.get_running_loop().call_soon(done, STOPPING)
            return
        self.pending_bytes += message.body.in_memory
        self._queue.append(PendingMessage(message, done))
        self._wake.set()
        if len(self._queue) >= self._wanted:
            self._enough.set()

    async def expunge(self, tombstones: Sequence[Tombstone]) -> Outcome:
        """Journal tombstones as mail is journalled (rule 21)."""
        if self._ended:
            return STOPPING
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append(PendingTombstones(tuple(tombstones), outcome.set_result))
        self._wake.set()
        return await asyncio.shield(outcome)

    # -- the writer's own volume, for sealers ------------------------------------------------------------
    async def fence(self, segment: SegmentId) -> FenceAnswer | None:
        """Fence a segment that this process may still append to; None: it never will, the sidecar may do it."""
        current = self.segment
        if current is None or current.header.segment != segment:
            return None
        answer = await current.fence()
        self._leave(current, "fenced")
        return answer

    # -- running -----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Commit until stopped."""
        heartbeat = asyncio.create_task(self._beat())
        try:
            while not (self._stopping and not self._queue):
                if not self._queue:
                    self._wake.clear()
                    self._idle.set()
                    await self._wake.wait()
                    continue
                self._idle.clear()
                await self._wait_for_company()
                await self._commit_next()
        finally:
            self._ended = True
            self._idle.set()
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)
            self._thread.close()  # before the file that it may be writing to
            if self.segment is not None:
                self._leave(self.segment, "the writer stops")
            while self._queue:
                gather(self._queue, MAX_BATCH_BYTES).finish(STOPPING)

    def refuse_new_mail(self) -> None:
        """The server is about to stop: sessions that ask hear 421, what is coming in may finish."""
        self._refusal = STOPPING

    async def stop(self) -> None:
        """Finish what was submitted and close the segment; then `run` returns. What comes later is refused."""
        self.refuse_new_mail()
        self._stopping = True
        self._wake.set()
        await self._idle.wait()

    def set_table(self, table: MirroringTable) -> bool:
        """Take a newer generation of the mirroring table; a changed row of our own ends the segment (rule 7).

        So does a table that has this server drained. Answers whether it was newer.
        """
        accepted, row_changed = self.mirrors.set_table(table)
        self._row_changed = self._row_changed or row_changed
        if self._idle.is_set():
            self._rotate()
        return accepted

    async def _commit_next(self) -> None:
        low = self._space_is_low()
        if low:
            deletions_first(self._queue)
        items = gather(self._queue, MAX_BATCH_BYTES, apart=low)
        batch = items.batch
        started = self._commit_began = self._now()
        try:
            outcome = await self._commit(batch)
        except Exception as error:  # what nobody thought of must not leave the senders of a batch without a word
            log.exception("commit failed")
            if self.segment is not None:
                self._leave(self.segment, str(error))
            outcome = DISK_FAILED
        seconds = self._now() - started
        self._commit_began = None
        self.commits += 1
        self.commit_seconds += seconds
        if outcome is None:
            metrics.COMMIT_SECONDS.observe(seconds)
            metrics.BATCH_RECORDS.observe(batch.entries)
            self.accepted += items.messages
            self._announcer.announce_soon()
        self.pending_bytes -= items.in_memory
        self._expected = batch.entries + len(self._queue)
        # Told in the loop's next turn, so that the next batch is on its way while the replies to this one are written.
        asyncio.get_running_loop().call_soon(items.finish, outcome)
        self._rotate()

    async def _commit(self, batch: Batch) -> Outcome | None:
        """Make a batch durable in one segment or another; None when it is, else what its senders hear."""
        # The slow clock alone is too slow: a fast disk takes the whole reserve between two looks.
        left = self.volume.free_bytes() - batch.bodies_length
        full = batch.bodies_length > 0 and left < self._settings.reserve
        if full:
            return self._refuse(NO_SPACE)
        if self._disk.waiting:
            return DISK_FAILED
        if self._for_deletions and batch.bodies_length > 0 and self.segment is not None:
            self._leave(self.segment, "a mirror of it takes deletions only")
        for _ in range(MAX_ATTEMPTS):
            segment = self.segment or await self._open(deletions=batch.bodies_length == 0)
            if segment is None:
                return NO_MIRROR
            try:
                await segment.append(batch)
                self._disk.worked()
                self.disk_error = None
                return None
            except SegmentFailed as error:
                self._leave(segment, str(error))
            except OwnDiskFailed as error:
                self._leave(segment, str(error))
                log.error("own volume failed", extra={"reason": str(error)})
                if self._space_is_low():
                    return self._refuse(NO_SPACE)
                self._disk.failed()
                self.disk_error = str(error)
                return self._refuse(DISK_FAILED)
        return NO_MIRROR

    def _refuse(self, refused: Refused) -> Refused:
        """New mail hears it, until the slow clock finds that the reason is gone."""
        if self._refusal is not STOPPING:
            self._refusal = refused
        return refused

    async def _wait_for_company(self) -> None:
        """A moment for those who are about to submit, judged by the last batch: a small batch costs as much as a large
        one, and those who came with the last one come again. One lone sender never waits."""
        self._wanted = min(self._expected, WORTHWHILE_BATCH)
        began = self._now()
        while (seen := len(self._queue)) < self._wanted and self._now() - began < COMPANY_WAIT:
            self._enough.clear()
            timer = asyncio.get_running_loop().call_later(COMPANY_PAUSE, self._enough.set)
            await self._enough.wait()
            timer.cancel()
            if len(self._queue) == seen:
                return  # nobody came for a while

    async def _open(self, *, deletions: bool) -> OpenSegment | None:
        wanted = self._settings.copies - 1
        links = await self.mirrors.choose(wanted, self._turn, full=deletions)
        self._for_deletions = not all(link.ready for link in links)
        if not links and wanted and self._settings.on_mirror_loss != "Accept":
            self._refusal = self._refusal or NO_MIRROR
            return None
        if self._refusal is NO_MIRROR and not self._for_deletions:
            self._refusal = None
        self._turn += 1
        self._row_changed = False
        segment = new_segment(
            self.volume, self.incarnation, self._worker, links, self._settings.copies, self._thread, self._now
        )
        log.info(
            "segment opened",
            extra={
                "segment": segment.header.segment.hex(),
                "mirrors": [link.server.name for link in links],
                "missing_copies": wanted - len(links),
            },
        )
        self.segment = segment
        return segment

    def _rotate(self) -> None:
        segment = self.segment
        if segment is None or (segment.acknowledged == 0 and segment.failed is None):
            return
        if segment.failed is not None:
            self._leave(segment, segment.failed)
        elif self.draining:
            self._leave(segment, "the server is draining")
        elif self._row_changed:
            self._leave(segment, "the mirroring table changed")
        elif segment.acknowledged >= self._settings.segment_size:
            self._leave(segment, "it is full")
        elif self._now() - segment.opened_at >= self._settings.segment_age:
            self._leave(segment, "it is old")
        elif len(segment.links) < min(self._settings.copies - 1, self.mirrors.ready_count()):
            self._leave(segment, "a missing mirror returned")
        elif self.mirrors.better_than(segment.links):
            self._leave(segment, "a mirror of a better class returned")

    def _leave(self, segment: OpenSegment, reason: str) -> None:
        """Never append to it again; the sidecar seals it. Called between two appends, or after a fence."""
        if self.segment is not segment:
            return
        self.segment = None
        log.info(
            "segment left",
            extra={"segment": segment.header.segment.hex(), "length": segment.acknowledged, "reason": reason},
        )
        metrics.SEGMENTS_LEFT.inc()
        if segment.member.fd >= 0:
            self._announcer.closed(segment.header.segment, segment.member.length)
        segment.close()
        self._announcer.announce()

    def _state(self) -> State:
        segment = self.segment
        if segment is None:
            return self.incarnation, self._worker, None, 0
        return self.incarnation, self._worker, segment.header.segment, segment.acknowledged

    # -- the slow clock ------------------------------------------------------------------------------------
    async def _beat(self) -> None:
        while True:
            self._announcer.announce()
            try:
                low = self._space_is_low()
                if low and self._refusal is None:
                    log.error("volume nearly full", extra={"free_bytes": self.volume.free_bytes()})
                    self._refusal = NO_SPACE
                elif not low and self._refusal is NO_SPACE:
                    self._refusal = None
                await self.mirrors.probe_due()
                if self._refusal is NO_MIRROR and self.mirrors.ready_count():
                    self._refusal = None
                if self._refusal is DISK_FAILED and not self._disk.waiting:
                    self._refusal = None  # the next message tries it
                await self._touch()
            except Exception:  # without a heartbeat nobody would hear of this writer again
                log.exception("heartbeat failed")
            await asyncio.sleep(HEARTBEAT)

    async def _touch(self) -> None:
        segment = self.segment
        if segment is None or not self._idle.is_set():
            return
        if self._now() - segment.last_append >= HEARTBEAT:
            await segment.touch()
        if self._idle.is_set():
            self._rotate()

    def _space_is_low(self) -> bool:
        return self.volume.free_bytes() < self._settings.reserve
