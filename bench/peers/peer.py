"""What the benchmark asks of every peer."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Daemon


def at_end_of_data(total: int) -> None:
    """For peers whose messages count when they are accepted: nothing to wait for after the load has ended."""


@dataclass(frozen=True, slots=True)
class System:
    """A peer that runs. `wait(total)` returns when so many messages since its start count as delivered."""

    ports: list[int]
    daemons: list[Daemon]
    wait: Callable[[int], None] = at_end_of_data


class Peer(ABC):
    """A system under test."""

    name: str  # the row's name in the report
    counted: str  # when a message counts
    copies: int | None = None  # durable copies; None when nothing is stored

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, or None."""
        return None

    @abstractmethod
    def running(self, directory: Path) -> contextlib.AbstractContextManager[System]:
        """Start it with its files in `directory` (its own for the whole benchmark), and stop it at the end."""
