"""The process' own limit on open files: as high as it may be."""

from __future__ import annotations

import resource


def raise_file_limit() -> None:
    """Raise the soft limit to the hard one: a server keeps a descriptor for each session and each segment."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
