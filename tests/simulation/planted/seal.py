"""The rules of sealing (8 to 15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy

from mailarray.catalog import sealing, volumes
from mailarray.journal.fence import FenceAnswer
from mailarray.journal.member import Member
from mailarray.journal.volume import Volume
from mailarray.tracking import sealing as tracking_sealing
from mailarray.tracking.peers import Peers
from mailarray.tracking.routes import Routes
from mailarray.tracking.sealing import Verdict
from mailarray.tracking.watching import SILENCE, Watch
from tests.simulation.planted.plants import Put, plant
from tests.simulation.servers import Port


@plant("shortest", "8", "take the longest durable length among the answers as L", "kill", "die_in_a_step")
def _shortest(put: Put) -> None:
    decide = tracking_sealing.decide

    def shortest(members: Any, answers: Any, lost: Any) -> Verdict:
        verdict = decide(members, answers, lost)
        if verdict.length is None or any(a.sealed_length is not None for a in answers):
            return verdict
        return Verdict(min(a.length for a in answers if a.volume in members))

    put(tracking_sealing, "decide", shortest)


@plant("durable-fence", "9", "a fence is durable before it is answered", "stopped_writer")
def _durable_fence(put: Put) -> None:
    fence = Member.fence

    def in_memory(self: Any) -> FenceAnswer:
        if self.fence_state.fenced:
            return fence(self)
        self.fence_state = replace(self.fence_state, fenced=True)
        return fence(self)

    put(Member, "fence", in_memory)


@plant("writer-answers", "9!", "on its own volume the writer process answers, or its lock is held", "stopped_writer")
def _writer_answers(put: Put) -> None:
    @contextmanager
    def always(self: Volume) -> Iterator[bool]:
        yield True

    put(Volume, "writer_locked", always)


@plant("volume-id", "9!", "it names a volume id; another volume answers 'not a member', never 0", "wipe", "kill")
def _volume_id(put: Put) -> None:
    answer, fence = Routes._volume_request, Peers.fence

    async def any_volume(self: Any, request: Any, method: str, parts: list[str]) -> Any:
        return await answer(self, request, method, [self._volume, *parts[1:]])

    async def where_it_was(self: Any, volume: Any, segment: Any) -> FenceAnswer:
        if volume not in self._addresses:
            await self.refresh()
            for address in _last_addresses(volume):
                self._addresses.setdefault(volume, address)
        return await fence(self, volume, segment)

    put(Routes, "_volume_request", any_volume)
    put(Peers, "fence", where_it_was)


def _last_addresses(volume: Any) -> list[str]:
    """Where that volume was, whatever is there now."""
    known = Port.world.volumes.get(volume)
    return [] if known is None else [f"{known[1].name.partition('.')[0]}:1"]


@plant(
    "empty-fence",
    "9!",
    "a member without a file durably writes an empty fenced segment before it answers 0",
    "late_first_batch",
)
def _empty_fence(put: Put) -> None:
    fence = Member.fence

    def only_with_a_file(self: Any) -> FenceAnswer:
        if self.fd < 0 and not self.fence_state.fenced:
            return FenceAnswer(self.volume.id, 0, None, 0, False)
        return fence(self)

    put(Member, "fence", only_with_a_file)


@plant(
    "void-proposals", "10!", "proposals made before a catalog restore are void", "snapshot", "restore", "kill",
    why_not="every length that members answer covers what was acknowledged, whenever they were asked; what the "
    "sentence saves is mail that nobody was told of",
)  # fmt: skip
def _void_proposals(put: Put) -> None:
    propose = sealing.propose_seal

    def whenever(connection: Any, segment: Any, length: int, epoch: int) -> int:
        return propose(connection, segment, length, int(volumes._read_state(connection).epoch))

    put(sealing, "propose_seal", whenever)


@plant(
    "catalog-overrides",
    "10!",
    "an L that the catalog holds overrides a member's memory",
    "sealed_twice",
)
def _catalog_overrides(put: Put) -> None:
    remember = Member.remember

    def once(self: Any, sealed_length: int, epoch: int) -> None:
        known = self.fence_state.sealed_length
        remember(self, sealed_length if known is None else known, epoch)

    put(Member, "remember", once)


@plant(
    "cut-alone", "11", "the length of members that cut a tail seals only once every other one answered or is lost",
    "power_cut",
    why_not="what was cut was never durable there, so it was never acknowledged; the sentence is for a disk that lies",
)  # fmt: skip
def _cut_alone(put: Put) -> None:
    decide = tracking_sealing.decide

    def whoever(members: Any, answers: Any, lost: Any) -> Verdict:
        return decide(members, [replace(a, cut=False) for a in answers], lost)

    put(tracking_sealing, "decide", whoever)


@plant(
    "not-truncated",
    "12!",
    "what is past L is not truncated, so that a later answer stays true",
    "sealed_twice",
)
def _not_truncated(put: Put) -> None:
    remember = Member.remember

    def and_cut(self: Any, sealed_length: int, epoch: int) -> None:
        remember(self, sealed_length, epoch)
        if self.length > sealed_length and self.fd >= 0:
            self.volume.disk.truncate(self.fd, sealed_length)
            self.length = sealed_length

    put(Member, "remember", and_cut)


@plant(
    "lower-all",
    "13!",
    "the same transaction removes the locations past it and sets the cursor back",
    "lost_tail",
)
def _lower_all(put: Put) -> None:
    def only_the_length(connection: Any, segment: Any, sealed_length: int, length: int, asked: Any) -> bool:
        segments = sealing._segments
        changed = connection.execute(
            sqlalchemy.update(segments)
            .where(segments.c.id == segment, segments.c.sealed_length == sealed_length)
            .values(sealed_length=length)
        )
        return bool(changed.rowcount)

    put(sealing, "lower_seal", only_the_length)


@plant("direct-word", "15!", "and it had no direct word from the writer for T", "cut_from_database", "catalog_away")
def _direct_word(put: Put) -> None:
    silent = Watch.silent

    def by_beat_alone(self: Any, beat: Any, last_word: float) -> bool:
        return silent(self, beat, last_word - SILENCE)

    put(Watch, "silent", by_beat_alone)
