"""Control groups: which processes belong to a box and to each of its nodes.

Everything that a box starts runs below one group of its own, `mailarray-box-<id>/<part>`, at the top of each hierarchy;
`<part>` is a node or `switch`. A node sees its own group as the top of all (a cgroup namespace), so what containerd
makes for containers lies below it. So all processes of a node are found by where they are, never by name, and a power
cut misses none. No other group of the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.box.machine import BoxError

MOUNT = Path("/sys/fs/cgroup")
KILL_SECONDS = 20
_MOUNT_OPTIONS = {"rw", "ro", "relatime", "nosuid", "nodev", "noexec"}


def hierarchies() -> dict[Path, str]:
    """Where groups are made, and how that is mounted: one place with cgroup v2, one for each controller with v1."""
    places = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup":
            own = [word for word in options.split(",") if word not in _MOUNT_OPTIONS]
            places[Path(where)] = f"-t cgroup -o {','.join(own)} cgroup"
        elif kind == "cgroup2" and where == str(MOUNT):
            places[Path(where)] = "-t cgroup2 cgroup2"
    return places


class Group:
    """The group `mailarray-box-<id>/<part>` in every hierarchy; processes are in its leaf `system`."""

    def __init__(self, box: str, part: str) -> None:
        below = Path(f"mailarray-box-{box}") / part
        self._trees = [place / below for place in hierarchies()]

    def make(self) -> None:
        """Make the groups; those of cpuset need processors and memory before anything may join."""
        for tree in self._trees:
            leaf = tree / "system"
            leaf.mkdir(parents=True, exist_ok=True)
            for folder in (tree.parent, tree, leaf):
                for name in ("cpuset.cpus", "cpuset.mems"):
                    file = folder / name
                    if file.exists() and not file.read_text().strip() and not (folder / "cgroup.controllers").exists():
                        file.write_text((folder.parent / name).read_text())
            if (controllers := tree.parent / "cgroup.controllers").exists():
                offered = " ".join(f"+{word}" for word in controllers.read_text().split())
                (tree.parent / "cgroup.subtree_control").write_text(offered)

    def joining(self, *, top: bool = False) -> str:
        """Shell words that put the running shell into the group; at its top, only to see it as the top of all."""
        return "; ".join(f"echo $$ > {tree if top else tree / 'system'}/cgroup.procs" for tree in self._trees)

    @staticmethod
    def remounting() -> list[str]:
        """Shell words that show a new cgroup namespace nothing but itself."""
        words = []
        if (unified := MOUNT / "unified").is_mount():
            words.append(f"umount {unified}")
        for place, mounting in hierarchies().items():
            words.append(f"umount {place}; mount {mounting} {place}; echo $$ > {place}/system/cgroup.procs")
        return words

    def processes(self) -> set[int]:
        """All processes of the group and of the groups below it."""
        found: set[int] = set()
        for tree in self._trees:
            for file in tree.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in file.read_text().split() if line != "0")
        found.discard(os.getpid())
        return found

    def kill(self) -> None:
        """SIGKILL all of them, again and again until none is left: a killed one may just have forked."""
        deadline = time.monotonic() + KILL_SECONDS
        while alive := {pid for pid in self.processes() if not _is_dead(pid)}:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise BoxError(f"processes {sorted(alive)} do not die: look with ps at what they wait for")
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove the groups, deepest first; the box's own group goes with the last part."""
        for tree in self._trees:
            for folder in _deepest_first(tree):
                _rmdir(folder)
            with contextlib.suppress(OSError):
                tree.parent.rmdir()


def parts(box: str) -> set[str]:
    """The parts that a box, perhaps a half-made one, has groups for."""
    found: set[str] = set()
    for place in hierarchies():
        tree = place / f"mailarray-box-{box}"
        if tree.is_dir():
            found.update(entry.name for entry in tree.iterdir() if entry.is_dir())
    return found


def _deepest_first(tree: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(tree, topdown=False):
        yield Path(folder)


def _rmdir(folder: Path) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:  # EBUSY for a moment after the last process died
            if time.monotonic() > deadline:
                raise BoxError(f"the control group {folder} cannot be removed ({error.strerror})") from error
            time.sleep(0.02)


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True
