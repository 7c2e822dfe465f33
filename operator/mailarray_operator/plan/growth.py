"""Volumes that shall grow: a claim that asks for less than the MailServer asks for more. Nothing ever shrinks.

Called by `deciding`. Whether a StorageClass can grow is known only where the operator may read it, or after the API
server refused: unknown counts as possible.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailarray.contract.server_names import host_of, number_of
from mailarray_operator.api import names
from mailarray_operator.plan import reasons
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.conditions import names as named
from mailarray_operator.plan.decisions import Growth
from mailarray_operator.plan.observation import Claim

VOLUMES_AS_ASKED = "VolumesAsAsked"
_UNITS = (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))


def grow(claims: Iterable[tuple[str, Claim]], size: int) -> tuple[list[Growth], Condition]:
    """Claims to be raised to `size` bytes, and what is to be said. `claims` are (name of the volume, claim)."""
    growths: list[Growth] = []
    stuck: list[str] = []
    behind: list[str] = []
    for volume, claim in claims:
        if claim.requested < size:
            if claim.expandable is False:
                stuck.append(claim.name)
            else:
                growths.append(Growth(claim.name or names.claim(host_of(volume), number_of(volume)), size))
                behind.append(claim.name)
        elif 0 < claim.capacity < size:
            behind.append(claim.name)
    asked = size_in_words(size)
    if stuck:
        return growths, Condition(
            VOLUMES_AS_ASKED,
            False,
            reasons.VOLUMES_NOT_EXPANDABLE,
            f"{named(stuck)} cannot grow to {asked}: the StorageClass does not allow it; set allowVolumeExpansion on "
            "it, or make a MailServer with another class and scale this one down",
        )
    if behind:
        return growths, Condition(
            VOLUMES_AS_ASKED,
            False,
            reasons.VOLUMES_GROWING,
            f"{named(behind)} shall grow to {asked}; servers go on meanwhile",
        )
    return growths, Condition(VOLUMES_AS_ASKED, True, reasons.VOLUMES_AS_ASKED, f"each volume has {asked} or more")


def size_in_words(size: int) -> str:
    """As a person writes it."""
    for unit, factor in _UNITS:
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
