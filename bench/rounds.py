"""The main benchmark: peers in alternating rounds (A, B, C, A, B, C, ...) for each load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import disk, report
from bench.load import Load, LoadFailed
from bench.measure import Effort, Sample, measure
from bench.peers.peer import Peer
from bench.processes import NotStarted

_DISK_SECONDS = 2.0  # of one round of the disk's own row


def folder_name(peer: Peer) -> str:
    """A name without characters that some configuration file would trip over."""
    return "".join(c if c.isalnum() else "-" for c in peer.name)


def run(
    console: Console, peers: Sequence[Peer], loads: Sequence[Load], effort: Effort, directory: Path
) -> tuple[list[report.Row], dict[str, str]]:
    """All rows, and why some peers were not run. A peer that fails once is left out from there on."""
    not_run = {peer.name: reason for peer in peers if (reason := peer.unavailable()) is not None}
    rows = []
    for load in loads:
        samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
        disk_rates = []
        for number in range(effort.rounds):
            disk_rates.append(disk.write_twice(directory, load, min(_DISK_SECONDS, effort.seconds)).messages_per_second)
            for peer in peers:
                if peer.name in not_run:
                    continue
                known = samples[peer.name]
                try:
                    sample = measure(
                        peer, load, effort, directory / folder_name(peer), known[-1].rate if known else None
                    )
                except (NotStarted, LoadFailed, RuntimeError, OSError) as error:
                    not_run[peer.name] = f"{load}, round {number + 1}: {error}"
                    console.print(f"[red]{peer.name}: {not_run[peer.name]}[/]", highlight=False)
                    continue
                known.append(sample)
                console.print(
                    f"{load}, round {number + 1}: {peer.name}: {sample.rate:,.0f} messages/s", highlight=False
                )
        rows.append(report.disk_row(load, disk_rates))
        rows += [report.row(p.name, p.counted, p.copies, load, samples[p.name]) for p in peers if samples[p.name]]
    return rows, not_run
