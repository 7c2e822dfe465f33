"""Sealing: agreeing on L, the length up to which a segment counts (rules 8 to 14). `decide` is pure.

Invariants:

- L is the longest durable length among fenced original members; a remembered L is proposed before any length.
- A length that only members know which cut a tail seals only once every other member has answered or is lost.
- The catalog's compare-and-set decides; what it answers is remembered durably before it is obeyed.
- What members answered before the catalog was restored is void: the proposal names the epoch in which they were asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mailarray.catalog.catalog import CatalogUnavailable, EpochPassed, SealRefused
from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.fence import FenceAnswer
from mailarray.journal.volume import VolumeError
from mailarray.model.ids import VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.fencing import Fencer, NotMember, WriterSilent
from mailarray.tracking.peers import Peers, PeerUnreachable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answers allow: a length to propose, or the reason to wait."""

    length: int | None
    reason: str = ""


def decide(members: Sequence[VolumeId], answers: Sequence[FenceAnswer], lost: Collection[VolumeId]) -> Verdict:
    """Rules 8, 10 and 11 for one segment. Pure; the order of answers does not matter."""
    counted = {answer.volume: answer for answer in answers if answer.volume in members}
    if not counted:
        return Verdict(None, "no member answers")
    remembered = [
        (answer.epoch, answer.sealed_length) for answer in counted.values() if answer.sealed_length is not None
    ]
    if remembered:
        return Verdict(max(remembered)[1])
    length = max(answer.length for answer in counted.values())
    if all(answer.cut for answer in counted.values()):
        waiting = [volume for volume in members if volume not in counted and volume not in lost]
        if waiting:
            return Verdict(None, f"only members that cut a torn tail answer; waiting for {waiting[0].hex()}")
    return Verdict(length)


class Sealer:
    """Seals segments that this volume is a member of."""

    def __init__(self, own: VolumeId, link: CatalogLink, fencer: Fencer, peers: Peers) -> None:
        self._own = own
        self._link = link
        self._fencer = fencer
        self._peers = peers

    async def ask_members(self, facts: SegmentFacts) -> list[FenceAnswer]:
        """Fence every member that can be reached, this one too."""
        answers = await asyncio.gather(*(self._fence(volume, facts) for volume in facts.members))
        return [answer for answer in answers if answer is not None]

    async def seal(self, facts: SegmentFacts, lost: Collection[VolumeId]) -> int | None:
        """Fence, decide, propose; answers L, or None when it has to wait. Raises CatalogUnavailable."""
        epoch = self._link.epoch
        verdict = decide(facts.members, await self.ask_members(facts), lost)
        if verdict.length is None:
            log.warning("seal waits", extra={"segment": facts.id.hex(), "reason": verdict.reason})
            return None
        return await self.propose(facts, verdict.length, epoch)

    async def propose(self, facts: SegmentFacts, length: int, epoch: int) -> int | None:
        """Answers the L in force, or None. Raises CatalogUnavailable, also when `epoch` is over: all starts anew."""
        try:
            sealed = await self._link.catalog.propose_seal(facts, length, epoch)
        except EpochPassed as error:
            raise CatalogUnavailable(str(error)) from error
        except SealRefused as error:
            metrics.SEAL_REFUSED.inc()
            log.critical("seal refused", extra={"segment": facts.id.hex(), "reason": str(error)})
            return None
        metrics.SEALED.inc()
        log.info("segment sealed", extra={"segment": facts.id.hex(), "sealed_length": sealed})
        return sealed

    async def _fence(self, volume: VolumeId, facts: SegmentFacts) -> FenceAnswer | None:
        try:
            if volume == self._own:
                return await self._fencer.fence(facts.id)
            return await self._peers.fence(volume, facts.id)
        except (PeerUnreachable, NotMember, WriterSilent, OSError, VolumeError) as error:
            log.info("member not reached", extra={"segment": facts.id.hex(), "reason": str(error)})
            return None
