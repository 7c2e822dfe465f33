"""A disk of few MiB in the place of a server's volume, for tests of what happens when it is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.array import Array


def on_small_disk(array: Array, folder: Path, mebibytes: int) -> Iterator[Array]:
    """The array, started with a tmpfs at `folder`; killed at the end. Skips where nothing can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield array.start()
    finally:
        array.kill()
        subprocess.run(["umount", "-l", str(folder)], check=False)
