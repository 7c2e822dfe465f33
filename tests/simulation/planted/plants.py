"""What a planted bug is, and how it is put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Put = Callable[[Any, str, Any], None]


@dataclass(frozen=True)
class Plant:
    """One bug."""

    rule: str
    sentence: str  # that is left out
    plant: Callable[[Put], None]
    hot: tuple[str, ...] = ()
    why_not: str = ""  # it cannot be caught: why


PLANTS: dict[str, Plant] = {}


def plant(name: str, rule: str, sentence: str, *hot: str, why_not: str = "") -> Callable[[Any], Any]:
    def add(patch: Callable[[Put], None]) -> Callable[[Put], None]:
        PLANTS[name] = Plant(rule, sentence, patch, hot, why_not)
        return patch

    return add


@contextmanager
def planted(name: str | None, *, hot_only: bool = False) -> Iterator[tuple[str, ...]]:
    """Put a bug in place, or none; yields the events that are hot."""
    saved: list[tuple[Any, str, Any]] = []

    def put(where: Any, attribute: str, value: Any) -> None:
        saved.append((where, attribute, where.__dict__[attribute]))
        setattr(where, attribute, value)

    bug = None if name is None else PLANTS[name]
    try:
        if bug is not None and not hot_only:
            bug.plant(put)
        yield () if bug is None else bug.hot
    finally:
        for where, attribute, value in reversed(saved):
            setattr(where, attribute, value)
