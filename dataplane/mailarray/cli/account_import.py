"""`mailarray account import`: a file into the database or a flat file, in batches, with progress and counts.

May be run again and again: what is there already is counted as unchanged. A line that cannot be taken is one sentence
on standard error with its number; the others are taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mailarray.cli.account_target import Target
from mailarray.directory.database.changes import Wanted
from mailarray.directory.importing import BadLine, GoodLine, batches, hashed, read_lines
from mailarray.directory.passwords import hash_password, matches


def import_all(target: Target, lines: Iterable[str]) -> int:
    """Import; answers the exit code: 1 when a line was refused."""
    added = changed = unchanged = refused = 0
    noted = False
    columns = (TextColumn("importing"), MofNCompleteColumn(), TextColumn("accounts"), TimeElapsedColumn())
    console = Console(stderr=True)
    with (
        ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash") as threads,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("import", total=None)
        for batch in batches(read_lines(lines, target.domains)):
            for bad in batch:
                if isinstance(bad, BadLine):
                    _refuse(bad.number, bad.text)
            good = [line for line in batch if isinstance(line, GoodLine)]
            if not noted and any(line.password is not None for line in good):
                noted = True
                click.echo("hashing plain passwords takes 50 to 100 ms of CPU each", err=True)
            stored = target.stored([line.line.address for line in good if line.password is not None])
            good = hashed(good, stored, threads, hash_password, matches)
            counts = target.put([Wanted(line.line, line.enabled) for line in good])
            for index, text in counts.refused:
                _refuse(good[index].number, text)
            added, changed = added + counts.added, changed + counts.changed
            unchanged += counts.unchanged
            refused += len(batch) - len(good) + len(counts.refused)
            bar.advance(task, len(batch))
    click.echo(f"{added} added, {changed} changed, {unchanged} unchanged, {refused} refused")
    return 1 if refused else 0


def _refuse(number: int, text: str) -> None:
    click.echo(f"line {number}: {text}", err=True)
