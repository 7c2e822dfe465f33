"""Resources with a mistake, as a table that people can read: `table.yaml`. Called by the tests that apply them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One row, its resources complete."""

    name: str
    where: Literal["refused", "accepted", "condition"]
    before: tuple[Manifest, ...]  # there already
    after: tuple[Manifest, ...]  # applied then; the last one is the mistake
    sentence: str = ""
    scale: int | None = None  # of the MailServer before: `kubectl scale`
    on: tuple[str, str] = ("", "")  # kind and name of the object with the condition
    condition: tuple[str, str, str] = ("", "", "")  # its type, status and reason


def rows() -> list[Row]:
    """The whole table."""
    table = yaml.safe_load((Path(__file__).parent / "table.yaml").read_text())
    return [_row(table["good"], raw) for raw in table["rows"]]


def _row(good: dict[str, Manifest], raw: dict[str, Any]) -> Row:
    if raw["where"] == "condition":
        on, condition = raw["object"], raw["condition"]
        given = tuple(_resource(good, g) for g in raw["given"])
        then = tuple(_resource(good, g) for g in raw.get("then", ()))
        return Row(
            name=raw["name"],
            where="condition",
            before=given if then else (),
            after=then or given,
            sentence=raw["sentence"],
            on=(on["kind"], on["name"]),
            condition=(condition["type"], condition["status"], condition["reason"]),
        )
    start = good[raw["kind"]]
    before = merged(start, raw["was"]) if "was" in raw else None
    changed = () if "scale" in raw else (merged(before or start, raw["change"]),)
    return Row(
        name=raw["name"],
        where=raw["where"],
        before=(before,) if before else (),
        after=changed,
        sentence=raw.get("sentence", ""),
        scale=raw.get("scale"),
    )


def _resource(good: dict[str, Manifest], raw: dict[str, Any]) -> Manifest:
    if "document" in raw:
        document: Manifest = raw["document"]
        return document
    return merged(good[raw["kind"]], raw.get("change", {}))


def merged(target: Manifest, patch: Manifest) -> Manifest:
    """A JSON merge patch (RFC 7396)."""
    result = copy.deepcopy(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result
