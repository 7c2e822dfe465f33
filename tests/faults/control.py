"""What the campaign tells the small library in each process (preload.c): hold, slow, failing or torn writes, the clock.

One file, mapped by every process of the array; a process has a slot, found by its name. What is set counts at once.
The layout of a slot is the struct in preload.c.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("preload.c")
SLOTS = 64
SLOT_BYTES = 128
NAME_BYTES = 64
# Offsets within a slot, and how a number is written there.
FIELDS = {
    "sync_delay": (64, "<q"),  # microseconds
    "clock_offset": (72, "<q"),  # nanoseconds
    "hold": (80, "<i"),
    "held": (84, "<i"),  # process id of the one that waits; written by the process
    "write_error": (88, "<i"),
    "sync_error": (92, "<i"),
    "torn": (96, "<i"),
}


def compiler() -> str | None:
    """The C compiler, or None."""
    return shutil.which("cc")


class Control:
    """The control file and the library."""

    def __init__(self, folder: Path, processes: Sequence[str]) -> None:
        """Compile the library, and make the file with a slot for each process. Raises CalledProcessError."""
        self.path, self.library = folder / "control", folder / "preload.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-o", str(self.library), str(SOURCE), "-ldl"],
            check=True, capture_output=True,
        )  # fmt: skip
        self._places = {name: index * SLOT_BYTES for index, name in enumerate(processes)}
        self.path.write_bytes(
            b"".join(n.encode().ljust(SLOT_BYTES, b"\0") for n in processes).ljust(SLOTS * SLOT_BYTES, b"\0")
        )
        self.path.chmod(0o666)  # servers run under users of their own
        self.library.chmod(0o755)
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @property
    def environment(self) -> dict[str, str]:
        """For the launcher, and so for all that it starts."""
        return {"LD_PRELOAD": str(self.library), "FAULTS_CONTROL": str(self.path)}

    def set(self, process: str, **values: int) -> None:
        """Fields of one process."""
        for field, value in values.items():
            offset, form = FIELDS[field]
            struct.pack_into(form, self._map, self._places[process] + offset, value)

    def get(self, process: str, field: str) -> int:
        """One field of one process."""
        offset, form = FIELDS[field]
        value: int = struct.unpack_from(form, self._map, self._places[process] + offset)[0]
        return value

    def heal(self) -> None:
        """Nothing is wrong any more; who is held goes on."""
        for process in self._places:
            self.set(process, **{field: 0 for field in FIELDS if field != "held"})
