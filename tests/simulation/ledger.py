"""What was promised to whom, and the checks of it: those that hold at every moment, and those at the end.

At every moment:
- what a writer acknowledges is durable on every member of the segment, byte for byte the same;
- an offset of a segment never gets other bytes, on any volume;
- a fence that was answered holds: that volume takes no byte past it, its later answers are no shorter, and it speaks
  for the volume that was asked;
- the length that is proposed for a segment is the longest that its members answered;
- nobody seals a segment whose writer spoke to it within T;
- what the catalog listed once it lists again, unless somebody asked for its deletion;
- a mailbox read from the sidecars lacks nothing that was acknowledged a while ago, and holds nothing twice and nothing
  whose deletion was acknowledged.

At the end, when all is healed and at rest: see `check`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailarray.access.maildrop import Message
from mailarray.access.sidecars import MailboxIncomplete, compile_mailbox
from mailarray.catalog.rows import MailboxEntry, SegmentFacts
from mailarray.journal.fence import FenceAnswer
from mailarray.journal.format import crc32c
from mailarray.journal.inspect import verify
from mailarray.journal.volume import Volume
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId
from mailarray.tracking.watching import SILENCE

if TYPE_CHECKING:
    from mailarray.mirroring.segment import Batch, OpenSegment
    from tests.simulation.disk import Machine
    from tests.simulation.world import World

MAILBOXES = ("anna@mail.example", "ben@mail.example", "cleo@mail.example")
# Seconds after a 250 in which a sidecar may not have heard of it yet: its writer may be stopped for as long as that.
UNHEARD = 7.0


@dataclass(slots=True)
class Attempt:
    """A message that a sender handed over."""

    body: bytes
    boxes: tuple[str, ...]
    acknowledged: float | None = None  # when


class Ledger:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.bodies: dict[bytes, Attempt] = {}  # by body: each is unique
        self.promised: dict[MessageId, Attempt] = {}
        self.deleting: set[PlacementId] = set()  # asked for, perhaps done
        self.deleted: dict[PlacementId, float] = {}  # acknowledged, when
        self.ends: dict[SegmentId, int] = {}  # acknowledged up to
        self.after_fence: list[Callable[[VolumeId, SegmentId], None]] = []  # of stories
        self._thin: set[SegmentId] = set()  # begun with fewer than `copies` members (rule 6)
        self._bytes: dict[str, bytearray] = {}  # of each segment, whoever wrote them first
        self._fenced: dict[tuple[bytes, SegmentId], int] = {}
        self._remembered: dict[tuple[bytes, SegmentId], int] = {}  # the lowest L that a member ever remembered
        self._words: dict[tuple[bytes, bytes], float] = {}  # volume, writer and incarnation -> last PUT that was taken
        self._listed: dict[str, set[PlacementId]] = {mailbox: set() for mailbox in MAILBOXES}
        self.replaced = 0  # how often the catalog was replaced
        self._stale_until = -1  # epoch that a restored catalog has to be past, before its lists are looked at
        self._contents: dict[tuple[VolumeId, SegmentId], bytes] = {}  # of files, for the checks at the end
        self._uids: dict[tuple[str, int, int], tuple[bytes, int]] = {}

    # -- at every moment -------------------------------------------------------------------------------
    def written(self, name: str, data: bytes, offset: int) -> None:
        """A process writes to a file of that name."""
        if not name.endswith(".segment"):
            return
        known = self._bytes.setdefault(name, bytearray())
        if offset > len(known):
            known += bytes(offset - len(known))
        end = offset + len(data)
        there = known[offset:end]
        if there != data[: len(there)]:
            self._world.broken(f"other bytes for {name} at {offset}")
        known[offset:end] = data

    def acknowledged_batch(self, segment: OpenSegment, batch: Batch) -> None:
        """A writer is about to say 250."""
        world = self._world
        end, id = segment.acknowledged, segment.header.segment
        wanted = self._bytes[id.hex() + ".segment"][:end]
        for member in segment.header.members:
            machine, path = world.volumes[member]
            durable = machine.durable(path, f"{id.hex()}.segment")
            if durable[:end] != wanted:
                world.broken(
                    f"250 for segment {id.hex()} up to {end}, but a member holds {len(durable)} durable bytes of it"
                )
            sealed = self._remembered.get((member, id), 0)  # up to there it fetched what it lacked: a late PUT says so
            if max(self._fenced.get((member, id), end), sealed) < end:
                world.broken(f"250 for segment {id.hex()} up to {end}, but a member was fenced before")
        if len(segment.header.members) < 2:
            world.broken("250 for one copy")
        if len(segment.header.members) < world.copies:
            self._thin.add(id)
        self.ends[id] = end

    def remembers(self, volume: VolumeId, segment: SegmentId, sealed_length: int) -> None:
        """A member notes L."""
        lowest = self._remembered.get((volume, segment), sealed_length)
        self._remembered[volume, segment] = min(lowest, sealed_length)

    def answered_fence(self, asked: VolumeId, segment: SegmentId, answer: FenceAnswer) -> None:
        """A member answers. What a failed sync left in the page cache, and nobody lived to tell of, may go with a power
        cut (rule 13 lowers L then): nobody was told 250 for it."""
        known = self._fenced.get((asked, segment), 0)
        machine, _ = self._world.volumes[asked]
        if f"{segment.hex()}.segment" in machine.failed_syncs:
            known = min(known, self.ends.get(segment, 0))
        # After a start, what lies past a remembered L is not looked at: that L is proposed before any length (rule 10),
        # also when a restored catalog says a higher one since.
        if answer.length < min(known, self._remembered.get((asked, segment), known)):
            self._world.broken(f"a fenced member of {segment.hex()} answered {known}, and now {answer.length}")
        self._fenced[asked, segment] = max(known, answer.length)
        for hook in list(self.after_fence):
            hook(asked, segment)

    def proposes(self, segment: SegmentFacts, length: int, answers: Sequence[FenceAnswer]) -> None:
        """A member proposes L, after it asked all of them. What is past it was in somebody's list, perhaps, and would
        be in no list any more."""
        counted = [answer for answer in answers if answer.volume in segment.members]
        if all(answer.sealed_length is None for answer in counted):
            longest = max((answer.length for answer in counted), default=0)
            if length < longest:
                self._world.broken(f"{length} is proposed for {segment.id.hex()}, and a member holds {longest}")

    def dropping(self, volume: VolumeId, segment: SegmentId) -> None:
        """A volume gives up what was compacted: what lives of it is whole on `copies` volumes."""
        world = self._world
        if volume in world.gone:
            return  # declared lost since it asked: nobody counts on what it has
        raw = world.database.raw
        above: bytes | None = segment
        head: bytes = segment
        while above is not None:
            head = above
            found = raw.execute("SELECT by_id FROM superseded WHERE segment_id = ?", (above,)).fetchone()
            above = None if found is None else found[0]
        found = raw.execute("SELECT sealed_length FROM segments WHERE id = ?", (head,)).fetchone()
        if head == segment or found is None or not found[0]:
            return  # the catalog was replaced a moment ago
        holders = sum(self._holds(machine, path, SegmentId(head), found[0]) for machine, path in self._counted(()))
        if holders < world.copies:
            world.broken(f"segment {segment.hex()} is given up, and {holders} volumes hold what is left of it")

    def giving_back(self, volume: VolumeId, segment: SegmentId) -> None:
        """A volume gives up a copy too many: it is whole on `copies` others, and none of them may be switched off."""
        world = self._world
        world.note(f"{volume.hex()} gives back {segment.hex()}")
        raw = world.database.raw
        found = raw.execute("SELECT sealed_length FROM segments WHERE id = ?", (segment,)).fetchone()
        end = max(self.ends.get(segment, 0), 0 if found is None else found[0] or 0)
        name = f"{segment.hex()}.segment"
        retired = [id for (id,) in raw.execute("SELECT id FROM volumes WHERE retired")]
        holders = 0
        for machine, path in self._counted(
            (volume, *retired)
        ):  # what a failed sync left may go: nobody was told 250 for it
            wanted = self.ends.get(segment, 0) if name in machine.failed_syncs else end
            holders += len(machine.durable(path, name)) >= wanted
        if holders < world.copies:
            world.broken(f"a copy of segment {segment.hex()} is given back, and {holders} other volumes hold it")

    def _counted(self, off: Collection[bytes]) -> list[tuple[Machine, Path]]:
        """Volumes that are in their servers and not declared lost. That one was declared so may stand nowhere any more,
        since the catalog was restored: then it counts."""
        lost = {id for (id,) in self._world.database.raw.execute("SELECT id FROM volumes WHERE lost")}.union(off)
        disks = [server.machine for server in self._world.servers.values()]
        return [place for id, place in self._world.volumes.items() if id not in lost and place[0] in disks]

    def cut(self, volume: VolumeId, segment: SegmentId, length: int) -> None:
        """A member cuts its file."""
        if length < min(self._fenced.get((volume, segment), 0), self._acknowledgeable(volume, segment)):
            self._world.broken(f"bytes of {segment.hex()} that a fence answered for are cut off")

    def _acknowledgeable(self, volume: VolumeId, segment: SegmentId) -> int:
        """What the disk really holds: what a failed sync left in the page cache may go."""
        machine, path = self._world.volumes[volume]
        return len(machine.durable(path, f"{segment.hex()}.segment"))

    def took(self, volume: VolumeId, segment: SegmentId, end: int) -> None:
        """A mirror has appended what its writer sent."""
        fenced = self._fenced.get((volume, segment))
        if fenced is not None and end > fenced:
            self._world.broken(f"a member of {segment.hex()} was fenced at {fenced}, and took bytes up to {end}")

    def heard(self, volume: VolumeId, writer: bytes | None) -> None:
        """A mirror has answered a PUT of that writer."""
        if writer is not None:
            self._words[volume, writer] = self._world.loop.now

    def may_seal(self, volume: VolumeId, writer: bytes) -> None:
        """A mirror takes that writer for dead."""
        if self._world.loop.now - self._words.get((volume, writer), float("-inf")) < SILENCE:
            self._world.broken("a segment is sealed although its writer spoke a moment ago")

    def catalog_replaced(self) -> None:
        """By an older one. Until somebody noticed that, it may list less than before."""
        self.replaced += 1
        self._stale_until = max(self._stale_until, self._epoch())

    @property
    def restored_unnoticed(self) -> bool:
        """The catalog was replaced, and nobody has begun a new epoch since."""
        return self._epoch() <= self._stale_until

    def _epoch(self) -> int:
        return int(self._world.database.raw.execute("SELECT epoch FROM state").fetchone()[0])

    def acknowledged(self, id: MessageId, attempt: Attempt) -> None:
        attempt.acknowledged = self._world.loop.now
        self.promised[id] = attempt

    def promised_before(self, mailbox: str, moment: float) -> dict[PlacementId, MessageId]:
        """Whose deletion nobody asked for."""
        found = {}
        for id, attempt in self.promised.items():
            assert attempt.acknowledged is not None
            if mailbox in attempt.boxes and attempt.acknowledged < moment:
                placement = PlacementId(id, attempt.boxes.index(mailbox))
                if placement not in self.deleting:
                    found[placement] = id
        return found

    def catalog_seen(self) -> tuple[int, bool]:
        """Which catalog it is; a list of one that was replaced, and is asked before anybody noticed, tells nothing."""
        return self.replaced, self.restored_unnoticed

    def saw(
        self,
        mailbox: str,
        messages: Sequence[Message],
        began: float,
        through_sidecars: bool,
        catalog: tuple[int, bool],
    ) -> None:
        """A reader was given this list; it asked at `began`, when that was the `catalog_seen`."""
        world = self._world
        self._once(mailbox, messages)
        placements = {m.placement for m in messages}
        if not through_sidecars:  # registration follows 250 after a while
            listed = self._listed[mailbox]
            if catalog == self.catalog_seen() == (self.replaced, False) and (
                missing := listed - placements - self.deleting
            ):
                world.broken(f"the catalog's list of {mailbox} lacks {len(missing)} messages that it had")
            listed |= {m.placement for m in messages if m.message in self.promised}
            return
        missing = self.promised_before(mailbox, began - UNHEARD).keys() - placements
        missing -= self.deleting
        back = [p for p in placements if self.deleted.get(p, began) < began - UNHEARD]
        if (missing or back) and self._thin_now():
            return  # see docs/simulation.md, Open findings
        if missing:
            world.broken(f"the sidecars' list of {mailbox} lacks {len(missing)} acknowledged messages")
        if back:
            world.broken(f"the sidecars' list of {mailbox} has {len(back)} deleted messages")

    def _thin_now(self) -> bool:
        """Fewer than `copies` volumes hold something that was acknowledged: it may be on those that did not answer."""
        world = self._world
        for id in self._thin:
            volumes = [place for volume, place in world.volumes.items() if volume not in world.gone]
            holders = sum(self._holds(machine, path, id, self.ends[id]) for machine, path in volumes)
            if holders < world.copies:
                return True
        return False

    def _once(self, mailbox: str, messages: Sequence[Message] | Sequence[MailboxEntry]) -> None:
        ids = [m.message for m in messages]
        if len(set(ids)) != len(ids):
            self._world.broken(f"a message stands twice in {mailbox}")

    def look_at_uids(self, forget: bool) -> None:
        """Before the catalog is replaced. `forget`: nobody may be there to notice it, or knows what was given out."""
        if forget:
            self._uids.clear()
            return
        for address, validity, uid, record, position in self._placed():
            self._uids.setdefault((address, validity, uid), (record, position))

    def _placed(self) -> list[Any]:
        return self._world.database.raw.execute(
            "SELECT m.address, m.uidvalidity, p.uid, p.record, p.position FROM placements p"
            " JOIN mailboxes m ON m.id = p.mailbox"
        ).fetchall()

    def _check_uids(self) -> None:
        """A restored catalog gives out UIDs again, but under another UIDVALIDITY."""
        for address, validity, uid, record, position in self._placed():
            if self._uids.get((address, validity, uid), (record, position)) != (record, position):
                self._world.broken(f"UID {uid} of {address} is another message than before")

    # -- what may be destroyed -------------------------------------------------------------------------
    def may_lose(self, volume: VolumeId, told: bool = False) -> bool:
        """Whether all that was acknowledged or sealed is durable on some other volume that stays. `told`: what nobody
        was told of may go, also when the catalog lists it (rule 13)."""
        world = self._world
        others = [
            (machine, path)
            for id, (machine, path) in world.volumes.items()
            if id != volume and id not in world.gone and any(s.machine is machine for s in world.servers.values())
        ]
        ends = dict(self.ends)
        sealed = "SELECT id, sealed_length FROM segments WHERE sealed_length > 0"
        here = sorted(id for id in world.volumes if id != volume and id not in world.gone) if told else []
        if told:  # not where no other member stays: nobody could lower the length
            sealed += (
                " AND NOT EXISTS (SELECT 1 FROM segment_members m WHERE m.segment = segments.number"
                f" AND m.volume IN ({','.join('?' * len(here))}))"
            )
        for id, length in world.database.raw.execute(sealed, here):
            ends[id] = max(ends.get(id, 0), length)  # also what nobody was told of: it may be listed
        for (id,) in world.database.raw.execute("SELECT segment_id FROM superseded"):  # it may have no row any more
            ends.pop(id, None)  # what is left of it is in another one
        for segment, end in ends.items():
            if not any(self._holds(machine, path, SegmentId(segment), end) for machine, path in others):
                return False
        return True

    def _holds(self, machine: Machine, path: Path, segment: SegmentId, end: int) -> bool:
        """Whether the disk certainly holds the right bytes, as far as they are known (what is copied or compacted has
        another name at first): of a fill that was under way a power cut may leave any."""
        name = f"{segment.hex()}.segment"
        durable = machine.durable(path, name)
        right = self._bytes.get(name, b"")[:end]  # nothing of a copy, which has another name
        return len(durable) >= end and durable[:end].startswith(right)

    # -- at the end ------------------------------------------------------------------------------------
    async def check(self) -> None:
        """Everything is healed and at rest."""
        world = self._world
        files = self._files()
        catalog = world.database.catalog()
        for mailbox in MAILBOXES:
            entries = await catalog.mailbox(mailbox)
            self._compare("the catalog", mailbox, entries, files)
            try:
                found = await compile_mailbox(world.clients.array, mailbox, world.copies)
            except MailboxIncomplete as error:
                world.broken(f"the sidecars give no list: {error}")
                continue
            self._compare("the sidecars", mailbox, found, files)
            for placement in {e.placement for e in entries} ^ {f.placement for f in found}:
                if placement in self.deleting:  # its tombstone was acknowledged to nobody: it may be half lost
                    continue
                who = "the catalog" if any(e.placement == placement for e in entries) else "the sidecars"
                world.broken(f"only {who} list {placement} of {mailbox}")
        self._check_uids()
        for server in world.servers.values():
            if server.agent is None:
                continue
            for report in verify(server.agent.volume):
                if not report.sound:
                    world.broken(f"{server.name} holds a damaged segment: {report.trouble or report.survey.damages[0]}")

    def _files(self) -> list[tuple[VolumeId, Any]]:
        """The volumes that count."""
        return [
            (server.agent.volume.id, server.agent.volume)
            for server in self._world.servers.values()
            if server.agent is not None
        ]

    def _compare(self, who: str, mailbox: str, entries: Sequence[Any], volumes: list[tuple[VolumeId, Volume]]) -> None:
        world = self._world
        self._once(mailbox, entries)
        found = {entry.placement: entry for entry in entries}
        for placement in self.promised_before(mailbox, float("inf")).keys() - found.keys():
            world.broken(f"{who} lost an acknowledged message of {mailbox}: {placement}")
        for placement in found.keys() & self.deleted.keys():
            world.broken(f"{who} brought back a deleted message of {mailbox}: {placement}")
        bodies: set[bytes] = set()
        for entry in entries:
            attempt = self.promised.get(entry.message)
            copies = self._copies(entry, volumes)
            if attempt is not None and len(copies) < world.copies:
                world.broken(f"{who}: {len(copies)} good copies of an acknowledged message of {mailbox}")
            if not copies:
                world.broken(f"{who} lists a message of {mailbox} that nobody holds")
                continue
            body = copies[0]
            known = self.bodies.get(body)
            if known is None or mailbox not in known.boxes or (attempt is not None and attempt.body != body):
                world.broken(f"{who}: other bytes in {mailbox}")
            if body in bodies:
                world.broken(f"{who}: one attempt twice in {mailbox}")
            bodies.add(body)

    def _read(self, volume: Volume, segment: SegmentId) -> bytes:
        """The file of a segment, from the page cache; empty when there is none."""
        found = self._contents.get((volume.id, segment))
        if found is None:
            try:
                found = volume.segment_path(segment).read_bytes()
            except FileNotFoundError:
                found = b""
            self._contents[volume.id, segment] = found
        return found

    def _copies(self, entry: Any, volumes: list[tuple[VolumeId, Volume]]) -> list[bytes]:
        """The good copies where the entry says that they are."""
        copies = []
        for where in entry.locations:
            for id, volume in volumes:
                if id not in where.members:
                    continue
                body = self._read(volume, where.segment)[where.offset : where.offset + where.length]
                if len(body) == where.length and crc32c(body) == entry.checksum:
                    copies.append(body)
        return copies
