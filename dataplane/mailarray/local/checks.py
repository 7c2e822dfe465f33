"""What can be wrong with the machine before anything is started: one sentence each, and nothing is changed.

Called by `up.py` before the first process starts. What goes wrong later is seen in status and logs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mailarray.contract.server_names import group_of, host_of, volume_name
from mailarray.contract.settings import Listen
from mailarray.journal.volume import SEGMENT_SUFFIX
from mailarray.local.layout import Layout
from mailarray.local.render import RenderedArray
from mailarray.local.resources import MAX_VOLUMES, PORTS_ANNOTATION
from mailarray.observe.http import listen_problem

MAX_RUN_PATH = 90  # characters; a UNIX socket's whole path must stay below 108 (unix(7))
MIN_FREE_FACTOR = 2  # free space at start, in reserves of one server: less, and mail would be refused soon


class StartError(Exception):
    """The array cannot start; the text is one sentence for a person."""


def lock_data(layout: Layout) -> IO[str]:
    """Make the data folder and hold its lock until the returned file is closed. Raises StartError."""
    try:
        layout.data.mkdir(parents=True, exist_ok=True)
        file = layout.lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise StartError(_cannot(layout.data, "be written", error)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        pid = file.read().strip()
        file.close()
        raise StartError(
            f"{layout.data} is in use by another `mailarray up` (process {pid or 'unknown'}); stop it, or give --data"
        ) from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def check_ports(ports: Sequence[tuple[Listen, str]]) -> None:
    """Every port can be listened on, and none is wanted twice. Raises StartError for the first that cannot."""
    wanted: dict[tuple[str, int], str] = {}
    hint = f"ports are set by the annotation {PORTS_ANNOTATION} of the MailCluster"
    for listen, what in ports:
        other = wanted.setdefault((listen.host, listen.port), what)
        if other != what:
            raise StartError(f"port {listen.port} is wanted for {other} and for {what}; {hint}")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen.host, listen.port))
                probe.listen(1)
            except OSError as error:
                raise StartError(f"{what}: {listen_problem(listen, error)}; {hint}") from error


def check_disk(layout: Layout, array: RenderedArray) -> None:
    """There is room to begin. Raises StartError."""
    reserve = max(s.storage.reserve for s in array.servers)
    free = shutil.disk_usage(layout.data).free
    need = MIN_FREE_FACTOR * reserve
    if free < need:
        raise StartError(
            f"the disk of {layout.data} is full: {free >> 20} MiB are free, at least {need >> 20} MiB are needed; "
            "make room, or lower spec.storage.reserve of the MailCluster"
        )


def check_paths(layout: Layout, array: RenderedArray) -> None:
    """UNIX sockets fit below the data folder. Raises StartError."""
    longest = max(len(s.run_directory.encode()) for s in array.servers)
    if longest > MAX_RUN_PATH:
        raise StartError(
            f"the path {layout.data} is {longest - MAX_RUN_PATH} characters too long for UNIX sockets in it; "
            "choose a shorter one with --data"
        )


def check_reach(layout: Layout) -> None:
    """Users of their own get as far as the data folder. Raises StartError."""
    python = closed_to_others(Path(os.__file__).resolve())
    if python is not None:
        raise StartError(
            f"the Python that runs lies below {python}, which other users cannot pass, so isolated servers cannot run; "
            "use another one, for example make PYTHON=/usr/bin/python3"
        )
    folder = closed_to_others(layout.data)
    if folder is not None:
        raise StartError(
            f"{folder} cannot be passed by other users, so isolated servers cannot reach their folders; "
            f"choose another folder with --data, or chmod o+x {folder}"
        )


def closed_to_others(path: Path) -> Path | None:
    """The first folder above a path that not every user may pass, or None."""
    return next((f for f in path.parents if f.exists() and not f.stat().st_mode & stat.S_IXOTH), None)


def check_volumes(array: RenderedArray) -> None:
    """Every volume that there is can be read and written. Raises StartError."""
    for server in array.servers:
        volume = Path(server.volume)
        try:
            if not volume.exists():
                continue
            for entry in os.scandir(volume):
                if entry.is_file() and not os.access(entry.path, os.R_OK):
                    raise PermissionError(13, os.strerror(13), entry.path)
            if not os.access(volume, os.W_OK | os.X_OK):
                raise PermissionError(13, os.strerror(13), str(volume))
        except OSError as error:
            raise StartError(
                f"the volume of {server.server} cannot be used: {error.filename or volume}: {error.strerror}; "
                "give this user read and write permission on it, or run as its owner"
            ) from error


def check_no_volume_left_out(layout: Layout, volumes: Sequence[str]) -> None:
    """No server of these had more volumes, with mail on them, before. Raises StartError.

    Nobody would serve that mail any more, and its copies may be on volumes that are left out, too.
    """
    asked = set(volumes)
    for server in dict.fromkeys(map(host_of, volumes)):
        count = sum(host_of(name) == server for name in asked)
        for number in range(count, MAX_VOLUMES):
            path = layout.volume(volume_name(server, number))
            if next(path.glob(f"segments/*{SEGMENT_SUFFIX}"), None) is not None:
                raise StartError(
                    f"{path} holds mail, but spec.storage.volumes of {group_of(server)} is {count}; set it to "
                    f"{number + 1} or more again, or `mailarray backup` then and restore into another folder (--data)"
                )


def check_tls(layout: Layout, array: RenderedArray) -> None:
    """The certificate files are there when they are asked for. Raises StartError."""
    if array.access.tls is None:
        return
    for path in (layout.certificate, layout.key):
        if not os.access(path, os.R_OK):
            raise StartError(
                f"spec.tls is set, but {path} cannot be read; put certificate and key there, or remove spec.tls"
            )


def _cannot(path: Path, what: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{path} cannot {what}: {reason}; choose another folder with --data, or mend its permissions"
