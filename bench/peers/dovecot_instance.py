"""A Dovecot instance of its own in a directory: LMTP on a UNIX socket, 1,000 maildirs, no authentication.

Durability is Dovecot's default, `mail_fsync = optimized`: LMTP fsyncs each message and its directory before it
answers; only index files are left to the kernel.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from bench.processes import Daemon, NotStarted

_OWNER = "nobody"
_START_TIMEOUT = 15.0  # seconds

_CONFIG = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
instance_name = bench
protocols = lmtp
ssl = no
first_valid_uid = 1
first_valid_gid = 1
default_internal_user = dovecot
default_login_user = dovenull
auth_mechanisms = plain
default_vsz_limit = 1G
default_process_limit = 200
mail_location = maildir:~/Maildir
mail_fsync = optimized
mail_plugins =
maildir_very_dirty_syncs = yes
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}/homes/%Ln allow_all_users=yes
}}
passdb {{
  driver = static
  args = nopassword=y
}}
mailbox_list_index = no
service lmtp {{
  user = {owner}
  process_min_avail = 2
  service_count = 0
  unix_listener {directory}/lmtp.socket {{
    mode = 0666
  }}
}}
protocol lmtp {{
  info_log_path = /dev/null
}}
{extra}
"""


def dovecot_missing() -> str | None:
    """Why no instance can be started here, or None."""
    if not shutil.which("dovecot", path="/usr/sbin"):
        return "Dovecot is not installed (Debian packages dovecot-lmtpd and dovecot-core)"
    if not Path("/usr/lib/dovecot/lmtp").exists():
        return "Dovecot's LMTP server is not installed (Debian package dovecot-lmtpd)"
    return None


class DovecotInstance:
    """Mailboxes stay in `directory` from one start to the next, so only the first round makes their folders."""

    def __init__(self, directory: Path, extra: Mapping[str, str]) -> None:
        self._directory = directory
        self._homes = directory / "homes"
        self.socket = directory / "lmtp.socket"
        directory.mkdir(parents=True, exist_ok=True)
        owner = pwd.getpwnam(_OWNER)
        self._homes.mkdir(exist_ok=True)
        os.chown(self._homes, owner.pw_uid, owner.pw_gid)
        self._config = directory / "dovecot.conf"
        self._config.write_text(
            _CONFIG.format(
                directory=directory,
                owner=_OWNER,
                uid=owner.pw_uid,
                gid=owner.pw_gid,
                extra="".join(f"{k} = {v}\n" for k, v in extra.items()),
            )
        )

    def start(self) -> Daemon:
        """In the foreground."""
        return Daemon("Dovecot", ["/usr/sbin/dovecot", "-F", "-c", str(self._config)], self._directory / "output")

    def wait_for_socket(self, daemon: Daemon) -> None:
        """Until LMTP listens. Raises NotStarted."""
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            daemon.check()
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return
            if time.monotonic() > deadline:
                raise NotStarted(f"Dovecot's LMTP socket is not there: {daemon.last_lines()}")
            time.sleep(0.02)

    def count(self) -> int:
        """Messages in all maildirs."""
        total = 0
        for home in os.scandir(self._homes):
            for part in ("new", "cur"):
                with contextlib.suppress(FileNotFoundError), os.scandir(f"{home.path}/Maildir/{part}") as entries:
                    total += sum(1 for _ in entries)
        return total
