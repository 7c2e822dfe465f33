"""Metrics of the mailbox database."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ACCOUNTS = Gauge("mailarray_directory_accounts", "Accounts in the file as last read.")
RELOADS = Counter(
    "mailarray_directory_reloads",
    "Times changed accounts were taken over from the file or snapshot, by result.",
    ["result"],
)
LOGINS = Counter("mailarray_directory_logins", "Logins that were checked, by result.", ["result"])
SNAPSHOT_REVISION = Gauge("mailarray_directory_snapshot_revision", "Revision of the accounts that the snapshot holds.")
SNAPSHOT_HELD = Gauge(
    "mailarray_directory_snapshot_held",
    "1 while the snapshot is kept against a database whose accounts are gone or too few, else 0.",
)
SNAPSHOT_CHECKED = Gauge(
    "mailarray_directory_snapshot_checked_seconds",
    "When the snapshot was last known to be current, seconds since 1970.",
)
