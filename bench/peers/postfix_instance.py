"""A Postfix instance of its own in a directory: configuration, start, and a look into its queue.

Tuned as its own documents advise for a fast, busy server (TUNING_README): no client limits, no flow delay,
no DNS, no chroot, no content filter, enough processes. Durability is Postfix' default: each queue file is
fsynced before 250.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.addresses import DOMAIN, aliases, mailboxes
from bench.processes import Daemon, NotStarted

_QUEUES = ("maildrop", "incoming", "active", "deferred")
_POLL = 0.01  # seconds between two looks into the queue; each costs a few microseconds

_MAIN: Mapping[str, str] = {
    "compatibility_level": "3.6",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "myhostname": "mail.example.org",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "local_recipient_maps": "",
    "biff": "no",
    "smtputf8_enable": "no",
    # Nobody is looked up.
    "smtpd_peername_lookup": "no",
    "smtp_dns_support_level": "disabled",
    # The recipients: 1,000 mailboxes and the aliases that come back round to them.
    "virtual_mailbox_domains": DOMAIN,
    "smtpd_relay_restrictions": "reject_unauth_destination",
    # One sender may do as it likes.
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    "smtpd_client_recipient_rate_limit": "0",
    "smtpd_client_event_limit_exceptions": "static:all",
    "default_process_limit": "100",
    "message_size_limit": "104857600",
    "in_flow_delay": "0",
    "max_use": "10000",
}

_MASTER = """\
# service type private unpriv chroot wakeup maxproc command
127.0.0.1:{port} inet n - n - - smtpd
pickup     unix  n - n 60    1 pickup
cleanup    unix  n - n -     0 cleanup
qmgr       unix  n - n 300   1 qmgr
tlsmgr     unix  - - n 1000? 1 tlsmgr
rewrite    unix  - - n -     - trivial-rewrite
bounce     unix  - - n -     0 bounce
defer      unix  - - n -     0 bounce
trace      unix  - - n -     0 bounce
verify     unix  - - n -     1 verify
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n -     - proxymap
proxywrite unix  - - n -     1 proxymap
showq      unix  n - n -     - showq
error      unix  - - n -     - error
retry      unix  - - n -     - error
discard    unix  - - n -     - discard
lmtp       unix  - - n -     - lmtp
anvil      unix  - - n -     1 anvil
scache     unix  - - n -     1 scache
postlog    unix-dgram n - n - 1 postlogd
"""


def postfix_missing() -> str | None:
    """Why no instance can be started here, or None."""
    if not shutil.which("postfix", path="/usr/sbin"):
        return "Postfix is not installed (Debian package postfix)"
    if os.geteuid() != 0:
        return "Postfix' master starts only as root"
    return None


class PostfixInstance:
    """Queue, data and configuration below `directory`, which is emptied first."""

    def __init__(self, directory: Path, port: int, extra: Mapping[str, str]) -> None:
        self._directory = directory
        self._queue = directory / "queue"
        shutil.rmtree(directory, ignore_errors=True)
        config = directory / "config"
        for made in (config, self._queue, directory / "data"):
            made.mkdir(parents=True)
        shutil.chown(directory / "data", "postfix")
        _write_map(config / "mailboxes", ((m, "present") for m in mailboxes()))
        _write_map(config / "aliases", aliases())
        settings = {
            **_MAIN,
            "queue_directory": str(self._queue),
            "data_directory": str(directory / "data"),
            "virtual_mailbox_maps": f"hash:{config}/mailboxes",
            "virtual_alias_maps": f"hash:{config}/aliases",
            "maillog_file": str(directory / "maillog"),
            "maillog_file_prefixes": str(directory),
            **extra,
        }
        (config / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        (config / "master.cf").write_text(_MASTER.format(port=port))
        for table in ("mailboxes", "aliases"):
            _run("/usr/sbin/postmap", "-c", str(config), f"hash:{config}/{table}")
        _run("/usr/sbin/postfix", "-c", str(config), "check")  # makes the queue's directories
        self._argv = ["/usr/lib/postfix/sbin/master", "-s", "-c", str(config)]

    def start(self, name: str) -> Daemon:
        """The master itself, in the foreground: it is our child, and the whole tree hangs below it."""
        return Daemon(name, self._argv, self._directory / "output")

    def wait_until_empty(self, seconds: float = 300.0) -> None:
        """Until every message has left the queue. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        empty = 0
        while empty < 2:  # a message that moved from one queue to another between two looks is seen by the second
            empty = 0 if any(_has_files(self._queue / queue) for queue in _QUEUES) else empty + 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"Postfix' queue is not empty after {seconds:.0f} s")
            time.sleep(_POLL)

    def held(self) -> int:
        """Messages in the hold queue."""
        return sum(1 for entry in os.scandir(self._queue / "hold") if entry.is_file())


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotStarted(f"{argv[0]} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")


def _write_map(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w") as file:
        for key, value in rows:
            file.write(f"{key} {value}\n")


def _has_files(directory: Path) -> bool:
    """Whether it, or a hashed directory in it, holds a file."""
    with os.scandir(directory) as entries:
        return any(entry.is_file() or _has_files(Path(entry.path)) for entry in entries)
