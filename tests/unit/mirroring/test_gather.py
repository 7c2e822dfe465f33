"""Every item that was taken out of the queue hears its outcome, whatever becomes of the others."""

from __future__ import annotations

from collections import deque

from mailarray.journal.format import Tombstone
from mailarray.journal.spool import MemoryBody
from mailarray.mirroring import gather as module
from mailarray.mirroring.gather import PendingMessage, PendingTombstones, gather
from mailarray.model.ids import MessageId, PlacementId
from mailarray.model.message import Committed, Delivery, IncomingMessage, Outcome


def message(heard: list[Outcome], fails: bool = False) -> PendingMessage:
    def done(outcome: Outcome) -> None:
        if fails:
            raise RuntimeError("this session is broken")
        heard.append(outcome)

    body = MemoryBody([b"text"], 4, 0)
    return PendingMessage(IncomingMessage("", (Delivery("ann@mail.example", "ann@mail.example"),), body), done)


def test_a_broken_session_does_not_keep_the_others_from_their_250() -> None:
    heard: list[Outcome] = []
    gather(deque([message(heard), message(heard, fails=True), message(heard)]), 1 << 20).finish(None)
    assert len(heard) == 2 and all(isinstance(outcome, Committed) for outcome in heard)


def test_the_metadata_of_a_batch_is_bounded() -> None:
    tombstone = Tombstone(PlacementId(bytes(16), 0), MessageId(bytes(16)), "x" * 60_000)
    size = 60_000 * 20
    queue = deque(PendingTombstones([tombstone] * 20, lambda outcome: None) for _ in range(20))
    taken = gather(queue, 1 << 20)  # type: ignore[arg-type]
    assert queue and len(taken.batch.metadata) <= module.MAX_BATCH_METADATA + size * 2
