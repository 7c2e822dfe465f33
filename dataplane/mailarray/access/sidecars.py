"""A mailbox compiled from the local indexes of all sidecars, for when the catalog cannot be asked (rule 20).

Every server is asked in parallel. A message is listed once, however many volumes hold it; what any tombstone
names is not listed. Called when a maildrop opens.

Invariant: an answer stands for its volume; all volumes but those of `copies` - 1 servers must have answered, or there
is no list. A message that was acknowledged lies on `copies` servers, so one that answered for all its volumes has it.
They are those of the mirroring table's servers and all that any segment of those that answered names as a member, but
those that were drained or repaired: what they held is on `copies` others, as a sidecar that answered remembers. A
drained one that is back is a server of the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mailarray.access.array import ANSWER_ERRORS, ServerArray
from mailarray.catalog.rows import Location
from mailarray.contract import paths
from mailarray.contract.mirroring_table import Server
from mailarray.contract.server_names import host_of
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId, parse_id

log = logging.getLogger(__name__)

LISTING_SECONDS = 10.0  # for a server's whole answer: a hundred thousand messages are many megabytes of JSON
STRAGGLER_SECONDS = 0.25  # once enough servers answered, how long the others are waited for


class MailboxIncomplete(Exception):
    """Too few volumes answered; the text says how many."""


@dataclass(slots=True)
class Found:
    """A message as the sidecars know it."""

    placement: PlacementId
    message: MessageId
    length: int
    checksum: int
    received_at: int
    places: dict[tuple[SegmentId, int], dict[VolumeId, None]] = field(default_factory=dict)

    @property
    def locations(self) -> tuple[Location, ...]:
        """Where its body lies."""
        return tuple(Location(s, offset, self.length, tuple(volumes)) for (s, offset), volumes in self.places.items())


@dataclass(frozen=True, slots=True)
class Answer:
    """What one volume holds of a mailbox."""

    volume: VolumeId
    messages: tuple[tuple[Found, Location], ...]
    tombstones: frozenset[PlacementId]
    gone: frozenset[VolumeId] = frozenset()  # drained: nobody has to wait for them
    named: frozenset[VolumeId] = frozenset()  # may hold mail that this one does not: they count, heard or not
    lost: frozenset[VolumeId] = frozenset()  # of those: no server has them any more


def parse_answer(raw: Any) -> Answer:
    """Read the JSON of `contract.paths.MAILBOX`. Raises KeyError, TypeError or ValueError."""
    messages = []
    for item in raw["messages"]:
        found = Found(
            PlacementId.parse(item["placement"]),
            MessageId(parse_id(item["message"])),
            int(item["length"]),
            int(item["checksum"]),
            int(item["received_at"]),
        )
        members = tuple(VolumeId(parse_id(member)) for member in item["members"])
        location = Location(SegmentId(parse_id(item["segment"])), int(item["offset"]), found.length, members)
        messages.append((found, location))
    tombstones = frozenset(PlacementId.parse(text) for text in raw["tombstones"])
    gone = frozenset(VolumeId(parse_id(volume)) for volume in raw.get("gone", ()))
    named = frozenset(VolumeId(parse_id(volume)) for volume in raw.get("named", ()))
    lost = frozenset(VolumeId(parse_id(volume)) for volume in raw.get("lost", ()))
    return Answer(VolumeId(parse_id(raw["volume"])), tuple(messages), tombstones, gone, named | lost, lost)


def merge(answers: Iterable[Answer]) -> list[Found]:
    """One list of messages out of all answers, oldest first."""
    by_placement: dict[PlacementId, Found] = {}
    gone: set[PlacementId] = set()
    for answer in answers:
        gone |= answer.tombstones
        for found, location in answer.messages:
            known = by_placement.setdefault(found.placement, found)
            volumes = known.places.setdefault((location.segment, location.offset), {})
            volumes.update(dict.fromkeys(location.members))
            volumes[answer.volume] = None  # also a repaired copy, on a volume that is no original member
    kept = [found for found in by_placement.values() if found.placement not in gone]
    kept.sort(key=lambda found: (found.received_at, found.placement))
    return kept


def missing_volumes(
    answers: Iterable[Answer], silent: Iterable[frozenset[VolumeId]], hosts: Sequence[str] | None = None
) -> int:
    """How many volumes did not answer, those of one host counted once.

    `silent` holds, for each server without an answer, the volumes it is known to have: none when it was never
    heard. Such a server is taken to have one of the volumes that messages name and nobody answered for; not one that is
    lost: that is missing beside it. `hosts` names the host of each of them; without, each is one.
    """
    answered = {answer.volume for answer in answers}
    named = {m for answer in answers for _, location in answer.messages for m in location.members}
    named = named.union(*(answer.named for answer in answers)) - answered
    for answer in answers:
        named -= answer.gone
    known: dict[VolumeId, str] = {}
    strangers = 0
    places = set[str]()
    for number, volumes in enumerate(silent):
        host = hosts[number] if hosts is not None else str(number)
        left = volumes - answered
        known.update(dict.fromkeys(left, host))
        if left or not volumes:
            places.add(host)
        strangers += not volumes
    elsewhere = named - known.keys()
    lost = {volume for answer in answers for volume in answer.lost} & elsewhere
    return len(places) + len(lost) + max(0, len(elsewhere - lost) - strangers)


async def compile_mailbox(array: ServerArray, mailbox: str, copies: int) -> list[Found]:
    """Ask all servers. Raises MailboxIncomplete."""
    servers = array.servers()
    tasks = {asyncio.create_task(_ask(array, server, mailbox)): server for server in servers}
    answers: list[Answer] = []
    silent = {server.name for server in servers}
    waiting = set(tasks)
    limit = asyncio.get_running_loop().time() + LISTING_SECONDS
    try:
        while waiting:
            left = limit - asyncio.get_running_loop().time()
            done, waiting = await asyncio.wait(waiting, timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                answer = task.result()
                if answer is not None:
                    answers.append(answer)
                    silent.discard(tasks[task].name)
            if len({host_of(name) for name in silent}) < copies:
                limit = min(limit, asyncio.get_running_loop().time() + STRAGGLER_SECONDS)
    finally:
        for task in waiting:
            task.cancel()
    names = sorted(silent)
    missing = missing_volumes(answers, [frozenset(array.volumes_of(n)) for n in names], [host_of(n) for n in names])
    if not servers or missing > copies - 1:
        raise MailboxIncomplete(f"{missing} volumes did not answer, {copies - 1} may be missing")
    return merge(answers)


async def _ask(array: ServerArray, server: Server, mailbox: str) -> Answer | None:
    try:
        return parse_answer(await array.get_json(server, paths.mailbox_path(mailbox), LISTING_SECONDS))
    except ANSWER_ERRORS as error:
        log.warning("sidecar does not list the mailbox", extra={"server": server.name, "reason": repr(error)})
        return None
