"""What a member has promised about a segment, and keeps across a power cut.

    segments/ID.fence: {"fenced": bool, "sealed_length": int | null, "epoch": int, "cut": bool, "whole": bool,
     "counts": bool, "dropped": bool}

Invariants (rules 9 to 12):

- A fence is durable before it is answered; a fenced member never takes another byte of the segment.
- A remembered L is durable before it is obeyed. It belongs to a catalog epoch: one that was proposed before the
  catalog was restored is void, and an L that the catalog holds overrides it.
- `whole` follows L: until the bytes below L were synced here, what a crash leaves of them is not trusted.
- `cut` says that a torn tail was cut here, once and for ever: this member may have held more.
- `counts` says of a compacted segment that it was proved to be held by all that must hold it, once and for ever: from
  then on it stands for its inputs, whether or not they are still somewhere (rule 23).
- `dropped` says that the segment was superseded and its bytes were given up here, once and for ever. The fence file
  stays without the segment file, so that nobody brings it back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from mailarray.journal.disk import SyncPoint
from mailarray.journal.volume import Volume, VolumeError
from mailarray.model.ids import SegmentId, VolumeId, parse_id


@dataclass(frozen=True, slots=True)
class Fence:
    """The promises of one member about one segment."""

    fenced: bool = False
    sealed_length: int | None = None  # L, as the catalog said it
    epoch: int = 0  # the catalog epoch in which L was heard
    cut: bool = False
    whole: bool = False  # everything below L is durable here; else the file is looked through after a start
    counts: bool = False  # of a compacted segment: it stands for its inputs
    dropped: bool = False  # superseded; the bytes are gone, or about to go


_WORDS = tuple(field.name for field in fields(Fence))


@dataclass(frozen=True, slots=True)
class FenceAnswer:
    """What a member answers to a fence (rule 9)."""

    volume: VolumeId
    length: int  # durable; ends a batch
    sealed_length: int | None
    epoch: int
    cut: bool

    def render(self) -> dict[str, Any]:
        """As JSON, for the internal ports."""
        return {
            "volume": self.volume.hex(),
            "length": self.length,
            "sealed_length": self.sealed_length,
            "epoch": self.epoch,
            "cut": self.cut,
        }

    @classmethod
    def parse(cls, raw: Any) -> FenceAnswer:
        """From JSON. Raises ValueError."""
        try:
            volume = VolumeId(parse_id(raw["volume"]))
            return cls(volume, int(raw["length"]), raw["sealed_length"], int(raw["epoch"]), bool(raw["cut"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a fence answer: {error}") from error


def load_fence(volume: Volume, segment: SegmentId) -> Fence:
    """The promises on disk, or none. Raises VolumeError when the file cannot be understood."""
    path = volume.fence_path(segment)
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  read for every segment at a start
            raw = json.loads(file.read().decode("ascii"))
        later = (bool(raw.get(word, False)) for word in ("whole", "counts", "dropped"))
        return Fence(bool(raw["fenced"]), raw["sealed_length"], int(raw["epoch"]), bool(raw["cut"]), *later)
    except FileNotFoundError:
        return Fence()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VolumeError(f"{path} is damaged: {error}; move the file away and seal the segment again") from error


def save_fence(volume: Volume, segment: SegmentId, fence: Fence) -> None:
    """Make promises durable. Raises OSError; then nothing may be promised."""
    text = json.dumps({word: getattr(fence, word) for word in _WORDS})
    volume.disk.replace_file(
        volume.fence_path(segment), text.encode("ascii") + b"\n", SyncPoint.FENCE_FILE, SyncPoint.FENCE_NAME
    )
