"""What each server does: its phase, from its pod, its own report, and the phase it had before.

Invariants
- A server that was away is Joining until it has settled what its last run left; once Serving, it stays so while its
  pod is ready. The phase before is read from the observed status, so an operator that starts anew decides the same.
- Lost is said of a server that once had a volume, when its pod is not ready and it has not answered for LOST_AFTER.
  Nothing follows from it for its mail: silence is not loss.
- A report of another pod of the same name counts for nothing.

Called by `deciding`. Drains are not judged here: `drain.py` lays its phases over these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mailarray.contract.time_left import told
from mailarray_operator.plan import volumes
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

    @property
    def up(self) -> bool:
        """Its pod is ready and stays."""
        return self.pod is not None and self.pod.ready and not self.pod.terminating


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


def look_at(
    observation: Observation, group: Group, name: str, ordinal: int, before: Mapping[str, Any], count: int = 1
) -> ServerView:
    """Judge one server with `count` volumes."""
    pod = group.pods.get(name)
    report = observation.reports.get(name)
    if report is not None and pod is not None and report.pod and report.pod != pod.uid:
        report = ServerReport(report.heard, None, None, report.pod)  # of all its volumes
    silent = observation.clock - max(report.heard if report is not None else observation.since, observation.since)
    fresh = report is not None and silent < LOST_AFTER
    said = report.volumes[:count] if report is not None and fresh else ()
    said += (VolumeReport(None, None),) * (count - len(said))
    sidecar = volumes.sidecars([one.sidecar for one in said])
    writer = volumes.writers(name, [one.writer for one in said])
    volume = str((sidecar or {}).get("volume") or before.get("volume") or "")
    progress: int | None = None
    rebuild: Any = (sidecar or {}).get("rebuild")
    lost_in: float | None = None
    phase: Phase
    if pod is None or not pod.ready or pod.terminating:
        still_lost = before.get("phase") == "Lost" and sidecar is None  # an operator that starts anew knows no better
        if volume and (silent >= LOST_AFTER or still_lost):
            phase = "Lost"
            why = f": {pod.claim_problem.rstrip('.')}" if pod is not None and pod.claim_problem else ""
            message = f"does not answer, and its pod is not ready{why}; its mail is read from its mirrors meanwhile"
        else:
            broken = volumes.silent(name, [one.writer if one.sidecar is not None else None for one in said])
            phase, message = "Joining", _waiting(pod, sidecar is not None, writer, broken)
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
    )


def unsettled(sidecar: Mapping[str, Any]) -> int:
    """Segments on a server's volume that are not at rest."""
    segments = sidecar.get("segments")
    nested = segments.get("unsettled") if isinstance(segments, dict) else None
    return int(sidecar.get("unsettled", nested or 0) or 0)


def _waiting(pod: Pod | None, answers: bool, writer: Mapping[str, Any] | None, broken: Sequence[str] = ()) -> str:
    if pod is None:
        return "has no pod yet"
    if broken and not pod.terminating:
        what = "volume" if len(broken) == 1 else "volumes"
        verb = "does" if len(broken) == 1 else "do"
        why = f": {pod.claim_problem.rstrip('.')}" if pod.claim_problem else ""
        return f"its {what} {', '.join(broken)} {verb} not answer{why}; its other volumes go on"
    if pod.claim_problem:
        return pod.claim_problem
    if pod.terminating:
        return "its pod is stopping"
    if answers:
        refusing = (writer or {}).get("refusing")
        return f"refuses mail: {refusing}" if refusing else "answers, and its pod is not ready yet"
    return "its pod starts" if pod.node else "its pod waits for a node"
