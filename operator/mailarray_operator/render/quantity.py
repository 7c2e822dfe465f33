"""Bytes as a Kubernetes quantity, the way a person writes it."""

from __future__ import annotations

_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def quantity(size: int) -> str:
    """For example 10Gi; exact, so 1000 stays 1000."""
    power = 0
    while size and size % 1024 == 0 and power < len(_SUFFIXES) - 1:
        size //= 1024
        power += 1
    return f"{size}{_SUFFIXES[power]}"
