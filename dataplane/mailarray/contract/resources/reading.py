"""A resource's document to a typed object, with one clear sentence for whatever does not fit.

Walks a document along the annotations of a frozen dataclass. Field names are camelCase in the document and snake_case
in Python. Refuses unknown fields and wrong types, always saying which document, which field, and what to write instead.
Called by the launcher on one machine for files, and by the operator for what the API server holds; knows no resource.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

Duration = Annotated[float, "duration"]  # seconds; written 500ms, 60s, 5m, 1h
Seconds = Annotated[int, "seconds"]  # whole ones, for what has no parts of a second; written 60s, 5m, 1h
Size = Annotated[int, "size"]  # bytes; written 50Mi, 10Gi, 4096
Free = Annotated[object, "free"]  # handed on as it is written, for example a pod's tolerations

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_SIZE_UNITS = {
    None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip

_T = TypeVar("_T")


class ResourceError(Exception):
    """What a person wrote does not fit; the text is one sentence that names the place and says what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, from a file or from the API server."""

    file: str  # where it comes from, for sentences
    number: int  # 1 for the first
    content: dict[str, Any]

    @property
    def title(self) -> str:
        """How sentences name it: `local.yaml, MailCluster example`."""
        kind = self.content.get("kind")
        metadata = self.content.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if isinstance(kind, str) and isinstance(name, str):
            return f"{self.file}, {kind} {name}"
        return f"{self.file}, document {self.number}"


@dataclass(slots=True)
class Reader:
    """Reads one document; gathers the paths of all fields that are written in it."""

    document: Document
    written: list[str] = dataclasses.field(default_factory=list)

    def read(self, cls: type[_T], raw: object, path: str) -> _T:
        """Build a dataclass from a mapping. Raises ResourceError."""
        return typing.cast(_T, self._object(cls, raw, path))

    def read_duration(self, raw: object, path: str) -> float:
        """Seconds. Raises ResourceError."""
        return float(self._scalar(Duration, raw, path))

    def fail(self, path: str, text: str) -> ResourceError:
        """The error to raise for a field."""
        return ResourceError(f"{self.document.title}: {path} {text}")

    def _object(self, cls: Any, raw: object, path: str) -> Any:  # a walk over annotations has no narrower type
        if not isinstance(raw, dict):
            raise self.fail(path, f"must be a mapping, not {kind_of(raw)}")
        hints = typing.get_type_hints(cls, include_extras=True)
        names = {_camel(f.name): f for f in dataclasses.fields(cls)}
        for key in raw:
            if key not in names:
                raise self.fail(f"{path}.{key}", f"is not a field; {_suggestion(str(key), list(names))}")
        values = {}
        for key, field in names.items():
            if key in raw and raw[key] is not None:
                values[field.name] = self._value(hints[field.name], raw[key], f"{path}.{key}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise self.fail(f"{path}.{key}", "is missing; add it")
        return cls(**values)

    def _value(self, kind: Any, raw: object, path: str) -> Any:
        origin = typing.get_origin(kind)
        if origin in (types.UnionType, typing.Union):
            return self._value(next(a for a in typing.get_args(kind) if a is not type(None)), raw, path)
        self.written.append(path)
        if kind == Free:
            return raw
        if origin is Literal:
            choices = typing.get_args(kind)
            if raw not in choices:
                raise self.fail(path, f"is {raw!r}; write {' or '.join(map(str, choices))}")
            return raw
        if origin is tuple:
            if not isinstance(raw, list):
                raise self.fail(path, f"must be a list, not {kind_of(raw)}")
            inner = typing.get_args(kind)[0]
            return tuple(self._value(inner, item, f"{path}[{i}]") for i, item in enumerate(raw))
        if origin is dict:
            if not isinstance(raw, dict) or not all(isinstance(v, str) for v in raw.values()):
                raise self.fail(path, "must be a mapping of names to texts; put values in quotes")
            return dict(raw)
        if dataclasses.is_dataclass(kind):
            return self._object(kind, raw, path)
        return self._scalar(kind, raw, path)

    def _scalar(self, kind: Any, raw: object, path: str) -> Any:
        if kind == Duration:
            match = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
            if match is None or float(match[1]) == 0:
                raise self.fail(path, f"is {raw!r}; write a duration like 500ms, 60s or 5m")
            return float(match[1]) * _DURATION_UNITS[match[2]]
        if kind == Seconds:
            match = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
            seconds = float(match[1]) * _DURATION_UNITS[match[2]] if match is not None else 0.0
            if seconds < 1 or seconds != int(seconds):
                raise self.fail(path, f"is {raw!r}; write whole seconds, minutes or hours, like 60s")
            return int(seconds)
        if kind == Size:
            match = _SIZE.fullmatch(str(raw)) if isinstance(raw, (str, int)) and not isinstance(raw, bool) else None
            if match is None or int(match[1]) == 0:
                raise self.fail(path, f"is {raw!r}; write a size like 50Mi or 1Gi")
            return int(match[1]) * _SIZE_UNITS[match[2]]
        if not isinstance(raw, kind) or (kind is int and isinstance(raw, bool)):
            raise self.fail(path, f"must be {_NAMES.get(kind, kind.__name__)}, not {kind_of(raw)}")
        return raw


_NAMES = {str: "a text", int: "a whole number", bool: "true or false", float: "a number"}


def kind_of(raw: object) -> str:
    if raw is None:
        return "empty"
    if isinstance(raw, dict):
        return "a mapping"
    if isinstance(raw, list):
        return "a list"
    return f"{_NAMES.get(type(raw), type(raw).__name__)} ({raw!s:.40})"


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _suggestion(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"remove it, or use one of {', '.join(sorted(names))}"
