"""Mailboxes as other programs read them: one Maildir or one mbox file each, by Python's own `mailbox` module.

A Maildir has each text byte for byte as it was kept, with CRLF. An mbox has line ends of one LF, and `>From ` where a
line began with `From `, as the format demands. What is there already is never added to.
"""

from __future__ import annotations

import mailbox
import os
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path

from mailarray.journal.inspect import folder_name

MAILDIR, MBOX = "maildir", "mbox"
OPEN_AT_ONCE = 64  # mbox files; one that is opened again is read through to its end


class FolderExists(Exception):
    """Something stands where a mailbox is to be written; one sentence."""


class Folders:
    """An export's directory. Methods raise FolderExists or OSError."""

    def __init__(self, root: Path, format: str) -> None:
        self._root = root
        self._format = format
        self._begun: set[str] = set()
        self._open: OrderedDict[str, mailbox.Mailbox[mailbox.Message]] = OrderedDict()

    def add(self, address: str, sender: str, received_at: int, body: bytes) -> None:
        """One message; `received_at` in microseconds since 1970."""
        box, seconds = self.begin(address), received_at / 1e6
        if self._format == MAILDIR:
            key = box.add(body)
            os.utime(self._root / folder_name(address) / "new" / key, (seconds, seconds))
            return
        when = datetime.fromtimestamp(seconds, UTC).strftime("%a %b %e %H:%M:%S %Y")
        first = f"From {sender or 'MAILER-DAEMON'} {when}\n".encode("utf-8", "surrogateescape")
        box.add(first + body.replace(b"\r\n", b"\n"))

    def begin(self, address: str) -> mailbox.Mailbox[mailbox.Message]:
        """Open a mailbox, which may stay empty."""
        name = folder_name(address)
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        path = self._root / (name if self._format == MAILDIR else f"{name}.mbox")
        if name not in self._begun:
            if path.exists():
                raise FolderExists(f"{path} is there already; export into an empty directory")
            self._root.mkdir(parents=True, exist_ok=True)
            self._begun.add(name)
        box = mailbox.Maildir(path) if self._format == MAILDIR else mailbox.mbox(path)
        self._open[name] = box
        if len(self._open) > OPEN_AT_ONCE:
            self._open.popitem(last=False)[1].close()
        return self._open[name]

    def close(self) -> None:
        """Finish all files."""
        while self._open:
            self._open.popitem()[1].close()
