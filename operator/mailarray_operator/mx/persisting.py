"""A plan as JSON, to lie in an annotation or a ConfigMap: 500 servers are about 50 KB, and annotations hold 256.

Invariant: `load(dump(plan)) == plan`. What cannot be read gives None: then the operator plans from nothing, as at
first, and all servers start equal; that is safe, and the published records differ by little.

Called by the operator. Fields that have their default are left out.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

from mailarray_operator.mx.published import Member, MxPlan

VERSION = 1
_FIELDS = {
    f.name: None if f.default is MISSING else f.default for f in fields(Member) if f.name not in ("server", "band")
}
_TYPES: dict[str, tuple[type, ...]] = {
    "preference": (int,),
    "slot": (str,),
    "external": (bool,),
    "since": (float, int),
    "spent": (float, int),
    "returned": (float, int),
    "wanted": (float, int),
    "level": (int,),
    "ratio": (float, int),
    "reason": (str,),
}


def dump(plan: MxPlan) -> str:
    """Keys in a fixed order, so that equal plans are equal texts."""
    members: dict[str, dict[str, Any]] = {}
    for member in plan.members:
        kept: dict[str, Any] = {"band": member.band}
        for name, default in _FIELDS.items():
            value = getattr(member, name)
            if value != default:
                kept[name] = value
        members[member.server] = kept
    whole = {"version": VERSION, "ttl": plan.ttl, "stale": plan.stale, "members": members}
    return json.dumps(whole, separators=(",", ":"))


def load(text: str) -> MxPlan | None:
    """None: not a plan, or one of another version."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict) or whole.get("version") != VERSION or not isinstance(whole.get("members"), dict):
        return None
    ttl, stale = whole.get("ttl"), whole.get("stale")
    if type(ttl) is not int or ttl < 1 or type(stale) is not bool:
        return None
    members = [_member(server, kept) for server, kept in sorted(whole["members"].items())]
    read = tuple(member for member in members if member is not None)
    return MxPlan(ttl, read, stale) if len(read) == len(members) else None


def _member(server: str, kept: object) -> Member | None:
    if not isinstance(kept, dict) or not kept.keys() <= {"band", *_FIELDS}:
        return None
    band = kept.get("band")
    if band is not None and (type(band) is not int or band < 0):
        return None
    values = {name: value for name, value in kept.items() if name != "band"}
    if any(type(value) not in _TYPES[name] for name, value in values.items()):
        return None
    return Member(server=server, band=band, **values)
