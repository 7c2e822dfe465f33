"""Which store a target names. Called by the commands."""

from __future__ import annotations

from pathlib import Path

from mailarray.backup.directory_store import DirectoryStore
from mailarray.backup.store import Store, TargetError


def open_store(target: str, endpoint: str | None = None) -> Store:
    """A directory's path, or a URL: s3://bucket/prefix, gs://…, az://…. Raises TargetError."""
    if "://" not in target or target.startswith("file://"):
        if endpoint:
            raise TargetError("an endpoint is for s3:// targets only; leave it out")
        return DirectoryStore(Path(target.removeprefix("file://")).absolute())
    from mailarray.backup.object_store import ObjectStore  # a large library, that others need not load

    return ObjectStore(target, endpoint)
