"""Volume claim templates. A StatefulSet keeps them as they were first created: not even a label may be added later."""

from __future__ import annotations

from collections.abc import Sequence

from mailarray_operator.render.context import Manifest
from mailarray_operator.render.quantity import quantity


def claim(
    name: str, labels: dict[str, str], *, size: int, storage_class: str | None, access_modes: Sequence[str]
) -> Manifest:
    """`size` in bytes; without a class the cluster's default one is taken."""
    spec: Manifest = {"accessModes": list(access_modes), "resources": {"requests": {"storage": quantity(size)}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }
