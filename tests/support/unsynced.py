"""Files and directories of a pretended disk: what a sync covered, and what was done since and a power cut may take."""

from __future__ import annotations

import random
from collections.abc import Callable


class Node:
    """A file, whatever its name."""

    __slots__ = ("durable", "pending")

    def __init__(self, durable: bytearray | None = None) -> None:
        self.durable = bytearray() if durable is None else durable
        self.pending: list[tuple[int, bytes] | int] = []  # writes, or lengths that it was cut to

    def apply(self, operation: tuple[int, bytes] | int) -> None:
        if isinstance(operation, int):
            del self.durable[operation:]
            return
        offset, data = operation
        if len(self.durable) < offset:
            self.durable += bytes(offset - len(self.durable))
        self.durable[offset : offset + len(data)] = data

    def sync(self) -> None:
        for operation in self.pending:
            self.apply(operation)
        self.pending.clear()

    def keep_some(self, dice: random.Random) -> None:
        """A random prefix of what was not synced stays, the last write torn."""
        kept = dice.randint(0, len(self.pending))
        for operation in self.pending[:kept]:
            self.apply(operation)
        if kept < len(self.pending):
            torn = self.pending[kept]
            if isinstance(torn, tuple) and torn[1]:
                cut = dice.randrange(len(torn[1]))
                # Its length may have reached the disk without its last pages, which read as zeros then.
                self.apply((torn[0], torn[1][:cut] + (bytes(len(torn[1]) - cut) if dice.random() < 0.5 else b"")))
        self.pending.clear()


class Folder:
    """The names of one directory."""

    __slots__ = ("durable", "live", "pending")

    def __init__(self) -> None:
        self.durable: dict[str, Node] = {}
        self.live: dict[str, Node] = {}
        self.pending: list[Callable[[dict[str, Node]], object]] = []

    def do(self, operation: Callable[[dict[str, Node]], object]) -> None:
        operation(self.live)
        self.pending.append(operation)

    def sync(self) -> None:
        self.durable = dict(self.live)
        self.pending.clear()

    def keep_some(self, dice: random.Random | None) -> None:
        """Names as a power cut leaves them; without dice, only those that a sync covered."""
        for operation in self.pending[: 0 if dice is None else dice.randint(0, len(self.pending))]:
            operation(self.durable)
        self.pending.clear()
