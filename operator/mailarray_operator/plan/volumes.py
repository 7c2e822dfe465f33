"""What the volumes of one server say together: one word of the sidecars, one of the writers.

Decisions are made of servers, since a server is what starts, stops, drains and is named by DNS; its volumes share its
fate. Invariants

- A server is drained, in sync or rebuilt only when each of its volumes is. One that does not answer is none of that.
- With one volume what its processes say is handed on as it is.

Called by `servers`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.server_names import group_of, number_of, volume_name
from mailarray_operator.plan.observation import Group

Status = Mapping[str, Any]
_PROGRESS = ("segments_total", "segments_left", "bytes_total", "bytes_left")


def count(group: Group, table: MirroringTable | None) -> int:
    """How many volumes each server of a group has; as the table has it while its spec cannot be read."""
    if group.spec is not None:
        return max(1, group.spec.storage.volumes)
    mine = [s.name for s in (table.servers if table is not None else ()) if group_of(s.name) == group.resource.name]
    return 1 + max(map(number_of, mine), default=0)


def names_of(server: str, volumes: int) -> list[str]:
    """The names of a server's volumes in the mirroring table."""
    return [volume_name(server, number) for number in range(volumes)]


def sidecars(said: Sequence[Status | None]) -> Status | None:
    """None when nobody answers."""
    heard = [status for status in said if status is not None]
    if len(said) == 1 or not heard:
        return heard[0] if heard else None
    whole = len(heard) == len(said)
    generations = [s.get("table_generation") for s in heard]
    return {
        **heard[0],
        # As long as one is not heard, nobody knows whether it is still the same.
        "volume": ",".join(str(s.get("volume") or "") for s in heard) if whole else "",
        "table_generation": min(g if whole and isinstance(g, int) else -1 for g in generations),
        "segments": {"unsettled": sum(_unsettled(s) for s in heard)},
        "under_replicated": sum(int(s.get("under_replicated") or 0) for s in heard),
        "in_one_zone": sum(int(s.get("in_one_zone") or 0) for s in heard),
        "copying": _progress([s.get("copying") for s in heard], every=whole),
        "drain": _progress([s.get("drain") for s in heard], every=whole),
        "rebuild": _progress([r for s in heard if (r := s.get("rebuild")) is not None], every=True),
        "full": any(s.get("full") for s in heard),
    }


def writers(server: str, said: Sequence[Status | None]) -> Status | None:
    """None when nobody answers."""
    heard = [status for status in said if status is not None]
    if len(said) == 1 or not heard:
        return heard[0] if heard else None
    mirrors = [mirror for status in heard for mirror in status.get("mirrors") or ()]
    refusing = [
        f"{name}: {status.get('refusing') if status is not None else 'does not answer'}"
        for name, status in zip(names_of(server, len(said)), said, strict=True)
        if status is None or status.get("refusing")
    ]
    return {
        **heard[0],
        "mirrors": mirrors,
        "refusing": "; ".join(refusing) or None,
        "at_rest": all(status.get("at_rest") is not False for status in heard),
    }


def silent(server: str, said: Sequence[Status | None]) -> list[str]:
    """Names of volumes whose process does not answer, while others of the same server do."""
    if all(status is None for status in said):
        return []
    return [name for name, status in zip(names_of(server, len(said)), said, strict=True) if status is None]


def _unsettled(sidecar: Status) -> int:
    segments = sidecar.get("segments")
    nested = segments.get("unsettled") if isinstance(segments, Mapping) else None
    return int(sidecar.get("unsettled", nested or 0) or 0)


def _progress(said: Sequence[object], *, every: bool) -> Status | None:
    """Of drains or rebuilds: the sum; None when none of them is under way. Done only when `every` one was heard."""
    parts = [one for one in said if isinstance(one, Mapping)]
    if not parts:
        return None
    sums = {key: sum(p[key] for p in parts if isinstance(p.get(key), int)) for key in _PROGRESS}
    done = every and len(parts) == len(said) and all(part.get("done") is True for part in parts)
    busy = [part.get("seconds_left") for part in parts if part.get("bytes_left")]
    seconds = [s for s in busy if isinstance(s, int | float)]
    return {**sums, "seconds_left": max(seconds) if seconds and len(seconds) == len(busy) else None, "done": done}
