"""A bar on standard error for work that is counted in bytes or pieces; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Show = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@contextmanager
def progress() -> Iterator[Show]:
    """One line for each word that is said; 'registering' and 'accounts' count pieces, everything else bytes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show
