"""Debian's base system as an image, made by debootstrap, for a machine without a registry.

Dockerfiles of this project take their base as the build argument BASE; elsewhere that is `debian:12-slim`. Python is in
it already, so that a role's Dockerfile finds it installed. MAILARRAY_BOX_DEBIAN names another mirror.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from tests.e2e.box import cache
from tests.e2e.box.machine import run

SUITE = "bookworm"
INCLUDE = "ca-certificates,python3,python3-venv,adduser"
MIRROR = "http://deb.debian.org/debian"
SECONDS = 1800
# What no container needs and every node would import.
_DROPPED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")


def tarball() -> Path:
    """The root file system as a tar file; the caller holds the lock of images."""
    mirror = os.environ.get("MAILARRAY_BOX_DEBIAN", MIRROR)
    final = cache.folder("base") / f"{SUITE}-{cache.digest(SUITE, INCLUDE, mirror)}.tar"
    if final.exists():
        return final
    log = cache.folder("build") / "debootstrap.log"
    log.unlink(missing_ok=True)
    cache.say(f"making the base image with debootstrap (once, about two minutes; log {log})")
    started = time.monotonic()
    tree = final.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={INCLUDE}", SUITE, tree, mirror, seconds=SECONDS, log=log)
    for name in _DROPPED:
        for entry in (tree / name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for name in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    # debootstrap mounts nothing that outlives it, but it copies the machine's resolver.
    (tree / "etc/resolv.conf").write_text("")
    making = final.with_suffix(".making")
    run("tar", "--create", "--numeric-owner", "--file", making, "--directory", tree, ".", seconds=SECONDS)
    shutil.rmtree(tree)
    making.rename(final)
    cache.say(f"made the base image in {time.monotonic() - started:.0f} s")
    return final
