"""Medians, ratios, a table for people and JSON for programs. Pure but for `write`.

`latest.json`: {"machine": {...}, "rows": [...], "ratios": [...], "disk": {...}, "not_run": {...}}.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.load import Load
from bench.measure import Sample

RESULTS = Path(__file__).parent / "results"

SMTP_SINK = "smtp-sink"
POSTFIX_DOVECOT = "Postfix -> Dovecot"
ARRAY_TWO = "Mailarray, copies 2"
ARRAY_ONE = "Mailarray, copies 1"
DISK_TWICE = "disk, each record in two files"

_SMALL, _LARGE = 4 * 1024, 50 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds of one peer under one load."""

    name: str
    counted: str
    size_bytes: int
    sessions: int
    copies: int | None
    messages_per_second: float
    cpu_us_per_message: float | None
    peak_rss_mib: float | None
    other_cpu_cores: float | None  # busy with something else meanwhile: much of it spoils the row
    rounds: tuple[float, ...]  # messages per second of each round, in order


@dataclass(frozen=True, slots=True)
class Ratio:
    """One row's rate over another's in the same run; `at_least` is what the project wants to reach."""

    name: str
    over: str
    size_bytes: int
    sessions: int
    value: float
    at_least: float | None


# (row, over row, size, sessions, aim)
_RATIOS: Sequence[tuple[str, str, int, int, float | None]] = (
    (ARRAY_TWO, POSTFIX_DOVECOT, _SMALL, 20, 20.0),
    (ARRAY_TWO, POSTFIX_DOVECOT, _LARGE, 20, 12.0),
    (ARRAY_TWO, POSTFIX_DOVECOT, _SMALL, 60, None),
    (ARRAY_TWO, POSTFIX_DOVECOT, _LARGE, 60, None),
    (ARRAY_TWO, SMTP_SINK, _SMALL, 60, 0.45),
    (ARRAY_TWO, ARRAY_ONE, _SMALL, 20, 0.6),
    (ARRAY_TWO, ARRAY_ONE, _SMALL, 60, 0.6),
    (ARRAY_TWO, DISK_TWICE, _LARGE, 20, 0.7),
    (ARRAY_TWO, DISK_TWICE, _LARGE, 60, 0.7),
)


def row(name: str, counted: str, copies: int | None, load: Load, samples: Sequence[Sample]) -> Row:
    """The medians of a peer's rounds."""

    def median(figure: Callable[[Sample], float]) -> float:
        return statistics.median(figure(sample) for sample in samples)

    return Row(
        name=name,
        counted=counted,
        size_bytes=load.size,
        sessions=load.sessions,
        copies=copies,
        messages_per_second=round(median(lambda s: s.rate), 1),
        cpu_us_per_message=round(median(lambda s: s.cpu_seconds / s.messages * 1e6), 1),
        peak_rss_mib=round(max(s.peak_pss for s in samples) / 2**20, 1),
        other_cpu_cores=round(median(lambda s: s.other_cpu), 2),
        rounds=tuple(round(s.rate, 1) for s in samples),
    )


def disk_row(load: Load, rates: Sequence[float]) -> Row:
    """The disk's own row: no process, so neither CPU nor memory."""
    rate = round(statistics.median(rates), 1)
    rounds = tuple(round(r, 1) for r in rates)
    return Row(DISK_TWICE, "fdatasync of both", load.size, load.sessions, 2, rate, None, None, None, rounds)


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """Those whose two rows were both measured."""
    rates = {(r.name, r.size_bytes, r.sessions): r.messages_per_second for r in rows}
    found = []
    for name, over, size, sessions, aim in _RATIOS:
        mine, theirs = rates.get((name, size, sessions)), rates.get((over, size, sessions))
        if mine is not None and theirs:
            found.append(Ratio(name, over, size, sessions, round(mine / theirs, 3), aim))
    return found


def document(
    machine: dict[str, Any], rows: Sequence[Row], disk: dict[str, float], not_run: dict[str, str]
) -> dict[str, Any]:
    """What `latest.json` holds."""
    return {
        "machine": machine,
        "rows": [asdict(r) for r in rows],
        "ratios": [asdict(r) for r in ratios(rows)],
        "disk": disk,
        "not_run": not_run,
    }


def write(name: str, content: dict[str, Any], directory: Path = RESULTS) -> Path:
    """Write one JSON file, replacing the one before."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def show(console: Console, rows: Sequence[Row], disk: dict[str, float], not_run: dict[str, str]) -> None:
    """Print the tables."""
    for size, sessions in sorted({(r.size_bytes, r.sessions) for r in rows}):
        table = Table(title=str(Load(size, sessions)), title_justify="left", title_style="bold")
        table.add_column("system")
        table.add_column("counted when")
        for heading in (
            "copies",
            "messages/s",
            "MB/s",
            "CPU us/message",
            "peak MiB",
            "other CPU",
            "rounds, messages/s",
        ):
            table.add_column(heading, justify="right")
        chosen = [r for r in rows if (r.size_bytes, r.sessions) == (size, sessions)]
        for r in sorted(chosen, key=lambda r: r.messages_per_second):
            table.add_row(
                r.name,
                r.counted,
                "-" if r.copies is None else str(r.copies),
                f"{r.messages_per_second:,.0f}",
                f"{r.messages_per_second * r.size_bytes / 1e6:,.1f}",
                "-" if r.cpu_us_per_message is None else f"{r.cpu_us_per_message:,.0f}",
                "-" if r.peak_rss_mib is None else f"{r.peak_rss_mib:,.0f}",
                "-" if r.other_cpu_cores is None else f"{r.other_cpu_cores:.2f}",
                " ".join(f"{rate:,.0f}" for rate in r.rounds),
            )
        console.print(table)
    if found := ratios(rows):
        table = Table(title="Ratios of messages/s", title_justify="left", title_style="bold")
        table.add_column("system")
        table.add_column("over")
        table.add_column("load")
        table.add_column("ratio", justify="right")
        table.add_column("at least", justify="right")
        for ratio in found:
            short = ratio.at_least is not None and ratio.value < ratio.at_least
            table.add_row(
                ratio.name,
                ratio.over,
                str(Load(ratio.size_bytes, ratio.sessions)),
                f"[{'red' if short else 'green'}]{ratio.value:.2f}[/]",
                "-" if ratio.at_least is None else f"{ratio.at_least:g}",
            )
        console.print(table)
    if disk:
        console.print(f"fdatasync of an appended 4 KiB: p50 {disk['p50_ms']:.2f} ms, p99 {disk['p99_ms']:.2f} ms")
    for name, reason in not_run.items():
        console.print(f"[yellow]not run: {name}: {reason}[/]")
