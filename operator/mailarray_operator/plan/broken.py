"""Volumes that do not work while others of the same server do: which, why, and who still has to wait for them.

Invariants
- A volume is broken only beside one that works: a server of which nothing works is Joining or Lost, as one with a
  single volume is. One that starts, and has not failed, is not broken.
- Whoever takes a server away (a restart, a drain's end) waits for a broken volume, since what was on it has a copy less
  in the array; but not for one that a person declared lost, as soon as all of its mail has its copies on others again.
- That is so only by the word of every volume that is not lost itself: each knows of the loss, has looked at the open
  catalog since, and misses no copy. One that does not answer proves nothing.

Called by `servers`, and by `deciding` for what the whole array says. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mailarray.contract.server_names import host_of, number_of
from mailarray_operator.api import names
from mailarray_operator.plan.observation import Pod, VolumeReport

SILENT_AFTER = 20.0  # seconds, for a volume whose processes run and do not answer; as long as for a whole server


@dataclass(frozen=True, slots=True)
class BrokenVolume:
    """One of a server's volumes, while others of it work."""

    name: str  # in the mirroring table
    why: str  # no full stop
    lost: bool = False  # a person declared so; for ever
    repaired: bool = False  # lost, and others hold all that was on it
    id: str = ""  # what `mailarray volume lost` wants; "" when nobody knows

    def sentence(self) -> str:
        """What is wrong, and what a person has to do."""
        begin = f"its volume {self.name} is broken ({self.why}), and its other volumes serve"
        if self.repaired:
            return f"{begin}; it is declared lost, others hold all of its mail, and nothing waits for it"
        if self.lost:
            return f"{begin}; it is declared lost, and its mail is being copied to others"
        return f"{begin}; {self.remedy()}"

    def remedy(self) -> str:
        """What a person has to do while it is not declared lost."""
        server = host_of(self.name)
        claim = names.claim(server, number_of(self.name))
        return (
            f"mend its disk, or replace it and `kubectl delete pvc/{claim} pod/{server}`, or declare it lost with "
            f"`mailarray volume lost {self.id or 'ID'}`"
        )

    def awaited(self) -> str:
        """What a restart or a drain says that waits for it."""
        if self.lost:
            return (
                f"waits until the mail of the broken volume {self.name}, which is declared lost, has its copies again"
            )
        return f"waits for the broken volume {self.name} ({self.why}), whose mail has a copy less; {self.remedy()}"


@dataclass(frozen=True, slots=True)
class Losses:
    """What all servers say together of volumes that are declared lost."""

    lost: frozenset[str] = frozenset()  # ids that somebody knows as lost
    repaired: frozenset[str] = frozenset()  # those of them that nobody has to wait for


NO_LOSSES: Final = Losses()


def losses(said: Sequence[tuple[str, Mapping[str, Any] | None]]) -> Losses:
    """`said` is, for every volume of the array, its id ("" when nobody knows it) and the status of its sidecar."""
    heard = [set(_lost(sidecar)) for _, sidecar in said if sidecar is not None]
    lost = frozenset().union(*heard)
    known = frozenset.intersection(*map(frozenset, heard)) if heard else frozenset()
    whole = all(volume in known if sidecar is None else _all_copies(sidecar) for volume, sidecar in said)
    return Losses(lost, known if whole else frozenset())


def faults(server: str, said: Sequence[VolumeReport], pod: Pod, clock: float, since: float) -> dict[int, str]:
    """Volumes that do not work, by number, and why; empty when none works. `clock` and `since`: as in Observation."""
    found: dict[int, str] = {}
    if len(said) == 1:
        return found
    for number, one in enumerate(said):
        why = _fault(one, pod, number, clock, since)
        if why:
            found[number] = why.rstrip(".")
    return found if any(works(one) and number not in found for number, one in enumerate(said)) else {}


def works(one: VolumeReport) -> bool:
    """Both of its processes answer."""
    return one.sidecar is not None and one.writer is not None


def _fault(one: VolumeReport, pod: Pod, number: int, clock: float, since: float) -> str:
    if works(one):
        return next((str(s["disk_error"]) for s in (one.writer, one.sidecar) if s and s.get("disk_error")), "")
    containers = [names.numbered(name, number) for name in (names.CONTAINER_SMTP, names.CONTAINER_CATALOG)]
    failed = next((pod.failures[name] for name in containers if name in pod.failures), "")
    if failed:
        return failed
    once = one.heard is not None or pod.started.issuperset(containers)
    silent = clock - max(one.heard if one.heard is not None else since, since)
    return "it does not answer" if once and silent >= SILENT_AFTER else ""


def _lost(sidecar: Mapping[str, Any]) -> list[str]:
    lost = sidecar.get("lost")
    return [str(volume) for volume in lost] if isinstance(lost, list) else []


def _all_copies(sidecar: Mapping[str, Any]) -> bool:
    catalog = sidecar.get("catalog")
    there = isinstance(catalog, Mapping) and catalog.get("state") == "up" and catalog.get("open") is True
    return there and sidecar.get("under_replicated") == 0
