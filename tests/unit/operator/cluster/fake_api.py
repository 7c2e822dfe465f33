"""A small API server in memory: objects, versions, ownership of fields by server-side apply. Also a Writer on it.

Ownership is by top-level path of spec, metadata.labels, metadata.annotations and data: enough for drift.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

from mailarray_operator.api import names
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.kinds import Kind, kind_of
from mailarray_operator.cluster.writer import PushFailed

Thing = tuple[str, str, str]


class FakeApi:
    """Also a Writer. `writes` is the transcript; `refuse` may raise for a thing."""

    def __init__(self) -> None:
        self.objects: dict[Thing, Json] = {}
        self.writes: list[str] = []
        self.refuse: Callable[[str, Thing], None] = lambda verb, thing: None
        self.heard: list[Callable[[Kind, Json, bool], None]] = []
        self.pushed: list[tuple[str, bytes]] = []
        self.deaf: set[str] = set()  # addresses that take no push
        self._versions = itertools.count(1)
        self._owned: dict[Thing, set[str]] = {}

    def put(self, kind: Kind, body: Json) -> Json:
        """As a user would: what is changed is not the operator's any more."""
        thing = _thing(kind, body)
        before = self.objects.get(thing, {})
        if thing in self._owned:
            self._owned[thing] -= {p for p, value in _leaves(body).items() if _leaves(before).get(p) != value}
        return self._store(kind, thing, body)

    def drop(self, kind: Kind, namespace: str, name: str) -> None:
        """Deleted, by whomever."""
        body = self.objects.pop((kind.name, namespace, name))
        self._owned.pop((kind.name, namespace, name), None)
        for sink in self.heard:
            sink(kind, body, False)

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """The object. Raises KeyError."""
        return copy.deepcopy(self.objects[kind.name, namespace, name])

    def _store(self, kind: Kind, thing: Thing, body: Json) -> Json:
        stored: Json = copy.deepcopy(body)
        before = self.objects.get(thing)
        metadata = stored.setdefault("metadata", {})
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{thing[2]}"
        same_spec = before is not None and before.get("spec") == stored.get("spec")
        metadata["generation"] = before["metadata"]["generation"] + (not same_spec) if before else 1
        metadata["managedFields"] = [
            {
                "manager": names.FIELD_MANAGER,
                "operation": "Apply",
                "fieldsV1": {path: {} for path in sorted(self._owned.get(thing, ()))},
            }
        ]
        if before is not None and _without_version(before) == _without_version(stored):
            return copy.deepcopy(before)
        metadata["resourceVersion"] = str(next(self._versions))
        self.objects[thing] = stored
        for sink in self.heard:
            sink(kind, copy.deepcopy(stored), True)
        return copy.deepcopy(stored)

    # Writer ---------------------------------------------------------------------------------------

    async def apply(self, manifest: Json) -> Json:
        kind = kind_of(manifest)
        thing = _thing(kind, manifest)
        self._log("apply", thing)
        before = self.objects.get(thing)
        wanted = copy.deepcopy(manifest)
        expected = wanted["metadata"].pop("resourceVersion", None)
        if expected is not None and (before is None or before["metadata"]["resourceVersion"] != expected):
            raise ApiError(409, "Conflict", "the object has been modified")
        merged = _merged(copy.deepcopy(before) if before else {}, wanted)
        self._owned[thing] = set(_leaves(wanted))
        return self._store(kind, thing, merged)

    async def apply_status(self, manifest: Json) -> Json:
        kind = kind_of(manifest)
        thing = _thing(kind, manifest)
        self._log("status", thing)
        if thing not in self.objects:
            raise ApiError(404, "NotFound", "not found")
        return self._store(kind, thing, {**self.objects[thing], "status": copy.deepcopy(manifest["status"])})

    async def create(self, manifest: Json) -> bool:
        kind = kind_of(manifest)
        thing = _thing(kind, manifest)
        self._log("create", thing)
        if thing in self.objects:
            return False
        self._store(kind, thing, manifest)
        return True

    async def change(self, kind: Kind, namespace: str, name: str, patch: Json) -> Json:
        thing = (kind.name, namespace, name)
        self._log("change", thing)
        before = self.objects[thing]
        expected = patch.get("metadata", {}).get("resourceVersion")
        if expected is not None and expected != before["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self.put(kind, _merged(copy.deepcopy(before), patch))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        thing = (kind.name, namespace, name)
        self._log("delete", thing)
        if thing in self.objects and self.objects[thing]["metadata"]["uid"] == uid:
            self.drop(kind, namespace, name)

    async def evict(self, namespace: str, pod: str, uid: str, *, only_ask: bool = False) -> None:
        self.refuse("evict", ("Pod", namespace, pod))
        if not only_ask:
            self._log("evict", ("Pod", namespace, pod))

    async def push(self, address: str, token: str, table: bytes) -> None:
        if address in self.deaf:
            raise PushFailed(f"{address} does not answer")
        self.pushed.append((address, table))

    def _log(self, verb: str, thing: Thing) -> None:
        self.refuse(verb, thing)
        self.writes.append(f"{verb} {thing[0]} {thing[2]}")


def _thing(kind: Kind, body: Json) -> Thing:
    return kind.name, body["metadata"].get("namespace", ""), body["metadata"]["name"]


def _merged(into: Json, patch: Json) -> Json:
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merged(into[name], value)
        else:
            into[name] = copy.deepcopy(value)
    return into


def _leaves(body: Json) -> dict[str, Any]:
    found = {}
    for top in ("spec", "data"):
        for name, value in (body.get(top) or {}).items():
            found[f"{top}.{name}"] = value
    for part in ("labels", "annotations"):
        for name, value in (body["metadata"].get(part) or {}).items():
            found[f"{part}.{name}"] = value
    return found


def _without_version(body: Json) -> Json:
    return {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "resourceVersion"}}
