"""Disks of the servers: an ext4 file system for each volume, on a loop device, that can lose its power or be filled.

A power cut is the kernel's own: `EXT4_IOC_SHUTDOWN` without a flush stops the file system at once, as a disk stops;
what no sync had made durable is gone when it is mounted again, and its journal is recovered. Meanwhile every call fails
with EIO. Needs root and a mount namespace of its own, so that nothing stays mounted when the campaign ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

SIZE_MIB = int(os.environ.get("DISK_MIB", "3072"))  # of one disk; its file is sparse
_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs/ext4/ext4.h
_NO_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_BALLAST = "ballast"
_BLOCK = 4096


class Disk:
    """The disk below one volume."""

    def __init__(self, image: Path, mount: Path, mib: int = SIZE_MIB) -> None:
        """Make and mount it. Raises CalledProcessError."""
        self._image, self.mount = image, mount
        mount.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(mib << 20)
        _run(
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1",
            "-J",
            "size=16",
            str(image),
        )
        self._attach()
        (mount / "lost+found").rmdir()

    def power_off(self) -> None:
        """What was not synced is gone; whoever still writes hears EIO."""
        fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Mount again; nobody may have a file open on it. Raises CalledProcessError."""
        _run("umount", str(self.mount))
        self._attach()

    def fill(self, left: int) -> None:
        """Take all space but so many bytes."""
        with (self.mount / _BALLAST).open("wb") as file:
            taken, step = 0, 1 << 62
            while step >= _BLOCK:
                room = os.statvfs(self.mount)
                step = min(step, room.f_bavail * room.f_bsize - left)
                try:
                    if step > 0:
                        os.posix_fallocate(file.fileno(), taken, step)
                        taken += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2  # the file system needs some for itself, and others write meanwhile

    def empty(self) -> None:
        """Give it back, for good: a power cut later does not bring the ballast back."""
        (self.mount / _BALLAST).unlink(missing_ok=True)
        fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def detach(self) -> None:
        """At the end."""
        subprocess.run(["umount", "-l", str(self.mount)], check=False, capture_output=True)

    def _attach(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.mount))


def problem() -> str | None:
    """Why there can be no such disks here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    return None if Path("/dev/loop-control").exists() else "there are no loop devices"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
