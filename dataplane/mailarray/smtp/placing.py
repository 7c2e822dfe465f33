"""Carrying placement rules out: stands between the SMTP sessions and the journal writer when there are rules.

A message that a rule sends elsewhere is handed over to a server of that group, which writes it; the session's 250 waits
for that server's acknowledgement. Invariants:

- Every submitted message hears exactly one outcome, and never from within `submit`.
- A message is kept by the other server, or else by this one under the same id: a hand-over that is refused, fails or
  takes too long ends in this server's own writer. It may then stand in segments of two writers, and rule 16 makes one
  message of it.
- The writer is never waited for, nor made to wait: what a hand-over takes, others' batches do not feel.
- Memory is bounded: what hand-overs hold counts as waiting for its commit (`refusal`), and beyond MAX_BYTES messages
  stay here at once.

Not made when there are no rules. What other servers hand over to this one never comes here: `record_port.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from mailarray.contract.settings import PlacementSettings
from mailarray.mirroring.hand_over import Keeper, Keepers, NotHandedOver
from mailarray.mirroring.writer import BUSY, JournalWriter
from mailarray.model.ids import new_message_id
from mailarray.model.message import Body, BodyWriter, Committed, Identity, IncomingMessage, Outcome, Refused
from mailarray.placement.rules import RuleBook
from mailarray.placement.urgency import Urgency, UrgencyScanner
from mailarray.smtp.metrics import PLACED

log = logging.getLogger(__name__)

MAX_BYTES = 32 * 1024 * 1024  # of texts that are being handed over; one message may be larger

HERE, HANDED_OVER, KEPT = "here", "handed_over", "kept"  # own group; other group; meant for another group, kept here


class _ScannedWriter:
    """A body writer that reads along what the header says of urgency."""

    __slots__ = ("_more", "_scanner", "_writer")

    def __init__(self, writer: BodyWriter) -> None:
        self._writer = writer
        self._scanner = UrgencyScanner()
        self._more = True

    def write(self, chunk: bytes) -> None:
        if self._more:
            self._more = self._scanner.feed(chunk)
        self._writer.write(chunk)

    @property
    def length(self) -> int:
        return self._writer.length

    def finish(self) -> Body:
        return _ScannedBody(self._writer.finish(), self._scanner.urgency)

    def discard(self) -> None:
        self._writer.discard()


class _ScannedBody:
    """A body with its urgency, from `finish` to `submit`."""

    __slots__ = ("body", "checksum", "chunks", "in_memory", "length", "release", "urgency")

    def __init__(self, body: Body, urgency: Urgency) -> None:
        self.body = body
        self.urgency = urgency
        self.length, self.checksum, self.in_memory = body.length, body.checksum, body.in_memory
        self.chunks, self.release = body.chunks, body.release


class PlacingSink:
    """A MessageSink in front of a JournalWriter; see the module."""

    def __init__(
        self,
        settings: PlacementSettings,
        group: str,
        writer: JournalWriter,
        keepers: Keepers,
        soft_pending_bytes: int,
    ) -> None:
        """`group` is this server's own. Raises ValueError for a rule that cannot be read."""
        self._rules = RuleBook(settings.rules)
        self._timeout = settings.hand_over_timeout
        self._group = group
        self._writer = writer
        self._keepers = keepers
        self._soft_pending_bytes = soft_pending_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0  # being handed over
        self._memory = 0  # of those, in memory
        self._stopping = False
        self._counts = {rule.name: dict.fromkeys((HERE, HANDED_OVER, KEPT), 0) for rule in settings.rules}
        self._groups = {rule.name: rule.group for rule in settings.rules}

    # -- MessageSink -----------------------------------------------------------------------------------
    def refusal(self) -> Refused | None:
        """Why no message can be taken now: any message may have to be kept here."""
        refusal = self._writer.refusal()
        if refusal is None and self.pending_bytes > self._soft_pending_bytes:
            return BUSY
        return refusal

    def open_body(self) -> BodyWriter:
        """The writer's own; the header is looked at only when a rule asks for urgency."""
        writer = self._writer.open_body()
        return _ScannedWriter(writer) if self._rules.needs_urgency else writer

    def submit(self, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        """To the server that the rules name, or to the own writer."""
        urgency = Urgency.NORMAL
        if isinstance(message.body, _ScannedBody):
            urgency, message.body = message.body.urgency, message.body.body
        body = message.body
        rule = self._rules.first_fitting(body.length, urgency, message.deliveries)
        if rule is None:
            self._writer.submit(message, done)
            return
        if rule.group == self._group:
            self._keep(rule.name, HERE, message, done)
            return
        crowded = self._bytes > 0 and self._bytes + body.length > MAX_BYTES
        keeper = None if crowded or self._stopping else self._keepers.choose(rule.group)
        if keeper is None:
            self._keep(rule.name, KEPT, message, done)
            return
        self._bytes += body.length
        self._memory += body.in_memory
        task = asyncio.get_running_loop().create_task(self._hand_over(rule.name, keeper, message, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what the process asks -----------------------------------------------------------------------------
    @property
    def pending_bytes(self) -> int:
        """Memory of messages that wait for their commit, here or elsewhere."""
        return self._writer.pending_bytes + self._memory

    @property
    def at_rest(self) -> bool:
        """Nothing is being handed over, so nothing can come back to the own writer."""
        return not self._tasks

    def status(self) -> dict[str, object]:
        """For /v1/status."""
        return {
            "rules": [{"name": name, "group": self._groups[name], **counts} for name, counts in self._counts.items()],
            "under_way": len(self._tasks),
            "servers": self._keepers.status(),
        }

    async def stop(self) -> None:
        """Hand over nothing more; what is under way ends there or, at the latest after its time limit, here."""
        self._stopping = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._keepers.close()

    # -- within --------------------------------------------------------------------------------------------
    async def _hand_over(
        self, rule: str, keeper: Keeper, message: IncomingMessage, done: Callable[[Outcome], None]
    ) -> None:
        identity = message.identity = Identity(new_message_id(), time.time_ns() // 1000)
        body = message.body
        try:
            await keeper.hand_over(message, identity, self._timeout)
        except BaseException as error:  # whatever happened, the sender must hear something
            if not isinstance(error, NotHandedOver):
                log.exception("hand-over failed", extra={"message_id": identity.id.hex()})
            self._end(body)
            self._keep(rule, KEPT, message, done)
            if not isinstance(error, Exception):
                raise
            return
        self._end(body)
        with contextlib.suppress(OSError):
            body.release()
        self._count(rule, HANDED_OVER)
        done(Committed(identity.id))

    def _end(self, body: Body) -> None:
        self._bytes -= body.length
        self._memory -= body.in_memory

    def _keep(self, rule: str, how: str, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        self._count(rule, how)
        self._writer.submit(message, done)

    def _count(self, rule: str, how: str) -> None:
        self._counts[rule][how] += 1
        PLACED.labels(rule, how).inc()
