"""From submitted messages to a batch, and back from its fate to each sender.

Invariant: every item that is taken out of the queue hears exactly one outcome, and its body is released once.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from mailarray.journal.format import Tombstone, encode_message, encode_tombstones
from mailarray.mirroring.segment import Batch
from mailarray.model.ids import MessageId, new_message_id
from mailarray.model.message import Body, Committed, IncomingMessage, Outcome

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 8 * 1024 * 1024  # of bodies; one larger message is a batch of its own
MAX_BATCH_METADATA = 8 * 1024 * 1024  # of envelopes and tombstones; far below what the format takes
MAX_BATCH_RECORDS = 1000  # so that one batch's metadata stays small
MAX_TOMBSTONES = 10_000  # in one record; more are split by the caller


class PendingMessage:
    """A message that waits for its batch."""

    __slots__ = ("done", "message", "size")

    def __init__(self, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        self.message = message
        self.done = done
        self.size = message.body.length


class PendingTombstones:
    """Tombstones that wait for their batch."""

    __slots__ = ("done", "size", "tombstones")

    def __init__(self, tombstones: Sequence[Tombstone], done: Callable[[Outcome], None]) -> None:
        self.tombstones = tombstones
        self.done = done
        self.size = 0


class Gathered:
    """A batch and those who wait for it."""

    __slots__ = ("_bodies", "_waiting", "batch", "in_memory", "messages")

    def __init__(
        self, batch: Batch, bodies: list[Body], waiting: list[tuple[MessageId, Callable[[Outcome], None]]]
    ) -> None:
        self.batch = batch
        self.messages = len(bodies)
        self.in_memory = sum(body.in_memory for body in bodies)
        self._bodies = bodies
        self._waiting = waiting

    def finish(self, refused: Outcome | None) -> None:
        """Tell everybody: Committed with the own id, or the refusal."""
        for body in self._bodies:
            with contextlib.suppress(OSError):
                body.release()
        for id, done in self._waiting:
            try:
                done(Committed(id) if refused is None else refused)
            except Exception:  # one session's failure must not keep the others' 250 from them
                log.exception("outcome not told")


def deletions_first(queue: deque[PendingMessage | PendingTombstones]) -> None:
    """Let nothing wait behind mail that will be refused."""
    if any(isinstance(item, PendingTombstones) for item in queue):
        ordered = sorted(queue, key=lambda item: isinstance(item, PendingMessage))
        queue.clear()
        queue.extend(ordered)


def gather(queue: deque[PendingMessage | PendingTombstones], max_bytes: int, *, apart: bool = False) -> Gathered:
    """Take the next batch out of a queue that is not empty. `apart`: mail and tombstones go in batches of their own."""
    received_at = time.time_ns() // 1000
    metadata: list[bytes] = []
    bodies: list[Body] = []
    waiting: list[tuple[MessageId, Callable[[Outcome], None]]] = []
    length = 0
    described = 0  # bytes of metadata
    while (
        queue
        and len(waiting) < MAX_BATCH_RECORDS
        and (not waiting or (length + queue[0].size <= max_bytes and described < MAX_BATCH_METADATA))
        and not (apart and waiting and isinstance(queue[0], PendingMessage) != bool(bodies))
    ):
        item = queue.popleft()
        if isinstance(item, PendingMessage):
            message = item.message
            body = message.body
            size = item.size
            id, at = message.identity or (new_message_id(), received_at)
            metadata.append(
                encode_message(
                    id, at, message.sender, message.deliveries, length, size, body.checksum, message.fingerprint
                )
            )
            bodies.append(body)
            length += size
        else:
            id = new_message_id()
            metadata.append(encode_tombstones(id, received_at, item.tombstones))
        described += len(metadata[-1])
        waiting.append((id, item.done))
    return Gathered(Batch(len(metadata), b"".join(metadata), bodies, length), bodies, waiting)
