"""Whether durable bytes of a server may be harmed now: only while all that it holds is whole elsewhere too.

The servers are asked, and not believed: what they report is necessary, and then the volumes are compared file by file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.stage import COPIES, ROLES, Stage

SAFE_SECONDS = 300.0  # until a harm is repaired: bound for a busy machine
LOOK_SECONDS = 0.25
SAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Flipped:
    """A byte that the campaign damaged."""

    path: Path
    offset: int
    good: int

    @property
    def mended(self) -> bool:
        """It is as it was, or the file is gone (its server dropped or lost it)."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(1) == bytes([self.good])
        except FileNotFoundError:
            return True


async def reports(stage: Stage) -> dict[str, dict[str, Any]] | None:
    """/v1/status of every process of every server; None when one does not answer."""
    names = [f"{server}/{role}" for server in stage.names for role in ROLES]
    answers = await asyncio.gather(*(asyncio.to_thread(stage.array.ask, name) for name in names))
    found = {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}
    return found if len(found) == len(names) else None


def at_rest_problem(found: dict[str, dict[str, Any]] | None) -> str | None:
    """Why not everything has its copies, as the servers say, or None."""
    if found is None:
        return "a process does not answer"
    for name, report in found.items():
        if name.endswith("/smtp"):
            now = report["copies"]["now"]
            if now is not None and now < COPIES:
                return f"{name} writes to {now} volumes"
            continue
        if not report["catalog"]["open"]:
            return f"{name}: the catalog is {report['catalog']['state']}, or not open"
        if report["under_replicated"]:
            return f"{name}: {report['under_replicated']} segments are under-replicated"
        if report["copying"]["segments_left"]:
            return f"{name}: {report['copying']['segments_left']} segments are being copied"
        if report["rebuild"] is not None and not report["rebuild"]["done"]:
            return f"{name} is being rebuilt"
    return None


def second_deliveries_problem(found: dict[str, dict[str, Any]] | None) -> str | None:
    """Who still has copies to drop, or None. No reason to spare a volume: what it owes, others drop."""
    for name, report in (found or {}).items():
        if name.endswith("/sidecar") and report["second_deliveries"] != 0:
            return f"{name}: {report['second_deliveries']} second deliveries are to be dropped"
    return None


def segments(volume: Path) -> Iterator[tuple[str, int]]:
    """Segments of a volume, and how many bytes of each count."""
    for path in (volume / "segments").glob("*.segment"):
        try:
            length = path.stat().st_size
            fence = path.with_suffix(".fence")
            sealed = json.loads(fence.read_text())["sealed_length"] if fence.exists() else None
        except (FileNotFoundError, ValueError):
            continue
        yield path.stem, length if sealed is None else min(length, sealed)


def only_here(stage: Stage, victim: int) -> list[str]:
    """Segments of which no other volume holds as much: looked at here first, and then there."""
    own = dict(segments(stage.array.volume(victim)))
    others: dict[str, int] = {}
    for index in range(len(stage.names)):
        if index != victim:
            for segment, length in segments(stage.array.volume(index)):
                others[segment] = max(others.get(segment, 0), length)
    lonely = [segment for segment, length in own.items() if others.get(segment, 0) < length]
    # Bytes that a sync failed to cover lie there for ever, promised to nobody: their server offers none of them.
    offered = stage.offered(victim) if lonely else {}
    return [segment for segment in lonely if offered.get(segment, 1) > others.get(segment, 0)]


async def wait_until_safe(
    stage: Stage, victim: int, flipped: list[Flipped], say: Callable[[str], None], seconds: float = SAFE_SECONDS
) -> None:
    """Until the victim's bytes may be harmed. Says now and then what it waits for, and fails with it in the end."""
    began = said = asyncio.get_running_loop().time()
    end = began + seconds
    while True:
        problem = at_rest_problem(await reports(stage))
        if problem is None:
            flipped[:] = [one for one in flipped if not one.mended]
            if flipped:
                await asyncio.to_thread(stage.scrub)  # whoever was away when it was asked first, or had it unsealed
                problem = f"{flipped[0].path.name} is damaged"
        if problem is None:
            try:
                lonely = await asyncio.to_thread(only_here, stage, victim)
            except OSError as error:
                lonely = [str(error)]
            if not lonely:
                return
            problem = f"{len(lonely)} segments are on {stage.names[victim]} alone, among them {lonely[0]}"
        now = asyncio.get_running_loop().time()
        if now - said > SAY_SECONDS:
            say(f"waits: {problem}")
            said = now
        if now > end:
            raise AssertionError(f"not repaired within {seconds:g} s: {problem}")
        await asyncio.sleep(LOOK_SECONDS)
