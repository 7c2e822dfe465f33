"""One healthy array for all scenarios that hurt nothing; each of them has mailboxes of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.array import DOMAIN, Array, account_line
from tests.support.certificates import write_certificate

ACCOUNTS = (
    account_line(f"first@{DOMAIN}", "info", "sales"),  # the first account gets postmaster's mail
    *(account_line(f"{name}@{DOMAIN}") for name in ("curl", "mpop", "getmail", "fetchmail", "tls", "load", "bytes")),
    *(
        account_line(f"{name}@{DOMAIN}")
        for name in ("anna", "ben", "carla", "tagged", "empty", "utf8", "grüße", "chart")
    ),
    *(account_line(f"{name}@{DOMAIN}") for name in ("renewed", "before")),
)


@pytest.fixture(scope="package")
def array() -> Iterator[Array]:
    """Three servers with TLS."""
    with Array(accounts=ACCOUNTS, spec={"tls": {"secretRef": {"name": "mail-tls"}}}) as started:
        folder = started.data / "tls"
        folder.mkdir()
        write_certificate(folder)
        started.start()
        yield started
        started.stop()
        started.verify_journals()
