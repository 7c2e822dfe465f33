"""The demo account: made when there are no accounts yet, so that a first message can be sent and read."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from mailarray.contract.settings import CatalogSettings
from mailarray.directory.accounts_editor import add
from mailarray.directory.accounts_file import AccountLine
from mailarray.directory.database.store import AccountStore
from mailarray.directory.passwords import hash_password
from mailarray.directory.rows import AccountsUnavailable
from mailarray.local.layout import Layout, write_private

DEMO_DOMAIN = "mail.example"
PASSWORD_BYTES = 12  # random; 16 characters to type

_HEADER = """\
# One account a line:  address:argon2-hash:alias,alias:quota
# Change it with `mailarray account add|passwd|remove`, or by hand; it is read again within a second.
"""


def demo_address(domains: Sequence[str]) -> str:
    """demo@mail.example, or in the first domain when the cluster has no mail.example."""
    return f"demo@{DEMO_DOMAIN if DEMO_DOMAIN in domains else domains[0]}"


def make_demo_account(layout: Layout, domains: Sequence[str]) -> None:
    """Write accounts file and password file, when there is no accounts file. Raises OSError."""
    if layout.accounts.exists():
        return
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    account = AccountLine(demo_address(domains), hash_password(password))
    write_private(layout.demo_password, password + "\n")
    write_private(layout.accounts, add(_HEADER, account, domains))


async def make_demo_in_database(layout: Layout, domains: Sequence[str], catalog: CatalogSettings) -> None:
    """Add the account and write its password file, when the database has no account. Raises OSError.

    With the database away there is none for now: the array starts all the same.
    """
    store = AccountStore(catalog.current_url)
    try:
        if await store.count():
            return
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        write_private(layout.demo_password, password + "\n")
        await store.add(AccountLine(demo_address(domains), hash_password(password)))
    except AccountsUnavailable:
        layout.demo_password.unlink(missing_ok=True)
    finally:
        await store.close()


def demo_password(layout: Layout) -> str | None:
    """The password, while its file is there."""
    try:
        return layout.demo_password.read_text(encoding="utf-8").strip()
    except OSError:
        return None
