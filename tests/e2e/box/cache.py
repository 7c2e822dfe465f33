"""Where the box keeps what is slow to make: outside the work tree, so that a fresh checkout starts warm.

    ~/.cache/mailarray-box/            MAILARRAY_BOX_CACHE names another place
        *.lock                         held while binaries or images are made, or a box goes up or down
        bin/<tool>-<digest>/           binaries, one folder for each state of go/<tool>
        base/<digest>.tar              Debian's base system
        containers/                    buildah's storage
        images/                        exported images
        build/                         logs of builds
        box-<id>/                      one box: its context, keys, logs, nodes

Whatever stands under its final name is whole: things are made beside it and renamed. So a build that was interrupted
is simply run again, and only what is missing is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def root() -> Path:
    """The cache's folder, made if missing."""
    named = os.environ.get("MAILARRAY_BOX_CACHE")
    folder = Path(named).absolute() if named else Path.home() / ".cache" / "mailarray-box"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def folder(name: str) -> Path:
    """A folder of the cache, made if missing."""
    path = root() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: bytes | str) -> str:
    """Twelve hexadecimal digits that change when any of the parts does."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()[:12]


@contextlib.contextmanager
def locked(what: str) -> Iterator[None]:
    """Hold the lock file `<what>.lock`; whoever has to wait is told so."""
    with (root() / f"{what}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {file.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    """A line of progress for a person."""
    print(f"box {time.strftime('%H:%M:%S')}: {line}", file=sys.stderr, flush=True)
