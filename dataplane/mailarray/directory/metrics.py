"""Metrics of the mailbox database."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ACCOUNTS = Gauge("mailarray_directory_accounts", "Accounts in the file as last read.")
RELOADS = Counter("mailarray_directory_reloads", "Times the accounts file was read again, by result.", ["result"])
LOGINS = Counter("mailarray_directory_logins", "Logins that were checked, by result.", ["result"])
