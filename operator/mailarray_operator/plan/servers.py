"""What each server does: its phase, from its pod, its own report, and the phase it had before.

Invariants
- A server that was away is Joining until it has settled what its last run left; once Serving, it stays so while its
  pod is ready. The phase before is read from the observed status, so an operator that starts anew decides the same.
- Lost is said of a server that once had a volume, when its pod is not ready and it has not answered for LOST_AFTER.
  Nothing follows from it for its mail: silence is not loss.
- A report of another pod of the same name counts for nothing.
- A server of which one volume is broken is judged by the others, as if its pod were ready; it is up only when nobody
  has to wait for that volume (`broken.py`).

Called by `deciding`. Drains are not judged here: `drain.py` lays its phases over these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mailarray.contract.server_names import number_of, volume_name
from mailarray.contract.time_left import told
from mailarray_operator.plan import broken, volumes
from mailarray_operator.plan.broken import NO_LOSSES, BrokenVolume, Losses
from mailarray_operator.plan.observation import Claim, Group, Observation, Pod, ServerReport, VolumeReport

LOST_AFTER: Final = 20.0  # seconds; Kubernetes itself takes as long to say that a node does not answer

Phase = Literal["Joining", "Serving", "Draining", "Drained", "Lost", "Rebuilding"]

SETTLES: Final = "takes mail, and settles what its last run left"


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server, as far as it can be judged alone."""

    name: str
    ordinal: int
    phase: Phase  # without its drain
    message: str
    progress: int | None  # percent of a rebuild
    time_left: str  # of a rebuild; "" when nobody knows
    volume: str
    zone: str
    node: str
    pod: Pod | None
    sidecar: Mapping[str, Any] | None  # fresh, of this very pod; else None
    writer: Mapping[str, Any] | None
    before: Mapping[str, Any]  # its entry in the observed status
    lost_in: float | None  # seconds until it would be Lost
    writers: tuple[Mapping[str, Any] | None, ...] = (None,)  # of each of its volumes; `writer` is all of them together
    claims: tuple[tuple[str, Claim], ...] = ()  # those that there are, by the names of volumes
    broken: tuple[BrokenVolume, ...] = ()  # while others of its volumes work

    @property
    def up(self) -> bool:
        """Its pod is ready and stays, or would be but for volumes that nobody has to wait for."""
        there = self.pod is not None and not self.pod.terminating and (self.pod.ready or bool(self.broken))
        return there and self.awaited is None

    @property
    def awaited(self) -> BrokenVolume | None:
        """The first volume that has to be mended, or declared lost and repaired, before another server may go."""
        return next((volume for volume in self.broken if not volume.repaired), None)

    @property
    def holds_budget(self) -> bool:
        """Its pod is not ready, and never will be by itself, while all that matters of it is well."""
        return self.up and self.pod is not None and not self.pod.ready


def _has_another_volume(before: Mapping[str, Any], volume: str) -> bool:
    known = before.get("volume")
    return bool(known and volume and known != volume)


def percent(progress: Mapping[str, Any]) -> int:
    """Of a drain or rebuild that a sidecar reports."""
    if progress.get("done"):
        return 100
    for unit in ("bytes", "segments"):
        total, left = progress.get(f"{unit}_total"), progress.get(f"{unit}_left")
        if isinstance(total, int) and isinstance(left, int) and total > 0:
            return max(0, min(99, 100 * (total - left) // total))
    return 0


def before_by_name(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The servers of an observed status."""
    found = status.get("servers")
    if not isinstance(found, list):
        return {}
    return {str(entry.get("name")): entry for entry in found if isinstance(entry, dict)}


def said_by(observation: Observation, pod: Pod | None, name: str, count: int) -> tuple[float, list[VolumeReport]]:
    """For how many seconds a server has been silent, and what its volumes said that counts."""
    report = observation.reports.get(name)
    if report is not None and pod is not None and report.pod and report.pod != pod.uid:
        report = ServerReport(report.heard, None, None, report.pod)  # of all its volumes
    silent = observation.clock - max(report.heard if report is not None else observation.since, observation.since)
    fresh = report is not None and silent < LOST_AFTER
    said = list(report.volumes[:count]) if report is not None and fresh else []
    return silent, said + [VolumeReport(None, None)] * (count - len(said))


def ids_of(said: Sequence[VolumeReport], before: Mapping[str, Any]) -> list[str]:
    """Of each volume, as it says itself, else as the status had it; "" when nobody knows."""
    known = str(before.get("volume") or "").split(",")
    known += [""] * (len(said) - len(known))
    return [str((one.sidecar or {}).get("volume") or old) for one, old in zip(said, known, strict=False)]


def look_at(
    observation: Observation,
    group: Group,
    name: str,
    ordinal: int,
    before: Mapping[str, Any],
    count: int = 1,
    losses: Losses = NO_LOSSES,
) -> ServerView:
    """Judge one server with `count` volumes."""
    pod = group.pods.get(name)
    silent, said = said_by(observation, pod, name, count)
    ids = ids_of(said, before)
    faults = {} if pod is None else broken.faults(name, said, pod, observation.clock, observation.since)
    bad = tuple(
        BrokenVolume(
            volume_name(name, number), why, ids[number] in losses.lost, ids[number] in losses.repaired, ids[number]
        )
        for number, why in faults.items()
    )
    if not bad and silent < LOST_AFTER and all(one.sidecar is None for one in said):
        bad = _still_broken(before, ids)  # an operator that starts anew has not asked yet
    limps = bool(bad) and all(number in faults or broken.works(one) for number, one in enumerate(said) if faults)
    spared = {number for number in faults if ids[number] in losses.repaired}
    sidecar = volumes.sidecars([one.sidecar for number, one in enumerate(said) if number not in spared])
    writer = volumes.writers(name, [one.writer for one in said])
    volume = ",".join(ids) if all(ids) else str(before.get("volume") or "")
    progress: int | None = None
    rebuild: Any = (sidecar or {}).get("rebuild")
    lost_in: float | None = None
    phase: Phase
    if pod is None or pod.terminating or not (pod.ready or limps):
        still_lost = before.get("phase") == "Lost" and sidecar is None  # an operator that starts anew knows no better
        if volume and (silent >= LOST_AFTER or still_lost):
            phase = "Lost"
            why = f": {pod.claim_problem.rstrip('.')}" if pod is not None and pod.claim_problem else ""
            message = f"does not answer, and its pod is not ready{why}; its mail is read from its mirrors meanwhile"
        else:
            bad = ()
            quiet = volumes.silent(name, [one.writer if one.sidecar is not None else None for one in said])
            phase, message = "Joining", _waiting(pod, sidecar is not None, writer, quiet)
            lost_in = LOST_AFTER - silent if volume else None
    elif sidecar is None:
        known = before.get("phase")
        phase = known if known in ("Serving", "Rebuilding") else "Joining"
        message = "" if phase == "Serving" else "its pod is ready; the operator has not heard from it yet"
        kept = before.get("progress")
        progress = kept if phase == "Rebuilding" and isinstance(kept, int) else None
    elif rebuild and not rebuild.get("done"):
        phase, message, progress = "Rebuilding", "fetches from its mirrors what its volume held", percent(rebuild)
    elif rebuild is None and (_has_another_volume(before, volume) or before.get("phase") == "Rebuilding"):
        # Its sidecar has not heard from the catalog yet what the lost volume held.
        phase, message, progress = "Rebuilding", "asks the catalog what its lost volume held", 0
    elif before.get("phase") in ("Serving", "Draining", "Drained") or unsettled(sidecar) == 0:
        phase, message = "Serving", ""
    else:
        phase, message = "Joining", SETTLES
    if bad and phase == "Serving":
        message = "; ".join(one.sentence() for one in bad)
    return ServerView(
        name,
        ordinal,
        phase,
        message,
        progress,
        told(rebuild.get("seconds_left")) if phase == "Rebuilding" and isinstance(rebuild, Mapping) else "",
        volume,
        pod.zone if pod is not None and pod.node else str(before.get("zone") or ""),
        pod.node if pod is not None and pod.node else str(before.get("node") or ""),
        pod,
        sidecar,
        writer,
        before,
        lost_in,
        tuple(one.writer for one in said),
        tuple((one, group.claims[one]) for one in volumes.names_of(name, count) if one in group.claims),
        bad,
    )


def _still_broken(before: Mapping[str, Any], ids: Sequence[str]) -> tuple[BrokenVolume, ...]:
    """As the status has it; nothing is taken for repaired on its word."""
    kept = before.get("brokenVolumes")
    if not isinstance(kept, list) or before.get("phase") not in ("Serving", "Rebuilding"):
        return ()
    known = {str(one.get("name")): str(one.get("reason")) for one in kept if isinstance(one, Mapping)}
    numbers = [(name, number_of(name)) for name in known]
    return tuple(BrokenVolume(name, known[name], id=ids[n] if n < len(ids) else "") for name, n in numbers)


def unsettled(sidecar: Mapping[str, Any]) -> int:
    """Segments on a server's volume that are not at rest."""
    segments = sidecar.get("segments")
    nested = segments.get("unsettled") if isinstance(segments, dict) else None
    return int(sidecar.get("unsettled", nested or 0) or 0)


def _waiting(pod: Pod | None, answers: bool, writer: Mapping[str, Any] | None, quiet: Sequence[str] = ()) -> str:
    if pod is None:
        return "has no pod yet"
    if quiet and not pod.terminating:
        what = "volume" if len(quiet) == 1 else "volumes"
        verb = "does" if len(quiet) == 1 else "do"
        why = f": {pod.claim_problem.rstrip('.')}" if pod.claim_problem else ""
        return f"its {what} {', '.join(quiet)} {verb} not answer{why}; its other volumes go on"
    if pod.claim_problem:
        return pod.claim_problem
    if pod.terminating:
        return "its pod is stopping"
    if answers:
        refusing = (writer or {}).get("refusing")
        return f"refuses mail: {refusing}" if refusing else "answers, and its pod is not ready yet"
    return "its pod starts" if pod.node else "its pod waits for a node"
