"""How much mail accounts hold, for `mailarray account list`: as the catalog has it, which quotas go by.

A catalog that is away, closed or not there yet is no failure: the accounts are shown all the same, without figures.
Never makes a catalog. Called by `account.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from mailarray.contract.settings import CatalogSettings, SettingsError
from mailarray.directory.database.store import ListedAccount

AT_ONCE = 500  # accounts in one question
ANSWER_SECONDS = 10.0  # for one question
_SQLITE = "sqlite:///"


def with_usage(
    found: Iterable[ListedAccount], catalog: CatalogSettings | None
) -> Iterator[tuple[ListedAccount, int | None]]:
    """Each account with the bytes in its mailbox; None: not known."""
    remaining = iter(found)
    asked = _Asked(catalog)
    try:
        while some := list(islice(remaining, AT_ONCE)):
            used = asked.used([one.address for one in some])
            yield from ((one, used.get(one.address)) for one in some)
    finally:
        asked.close()


class _Asked:
    """The catalog, until it fails once."""

    def __init__(self, settings: CatalogSettings | None) -> None:
        self._runner = asyncio.Runner()
        self._url = None if settings is None else _url(settings)

    def used(self, addresses: list[str]) -> dict[str, int | None]:
        """By address; without those that are not known."""
        if self._url is None:
            return {}
        from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable

        try:
            found = self._runner.run(self._ask(self._url, addresses))
        except (CatalogClosed, CatalogUnavailable, TimeoutError) as error:
            self._url = None
            reason = str(error) or "it takes too long"
            click.echo(f"how much the mailboxes hold is not known: the catalog does not say ({reason})", err=True)
            return {}
        return {address: found.get(address, 0) for address in addresses}  # no row: no mail ever came

    async def _ask(self, url: str, addresses: list[str]) -> dict[str, int | None]:
        from mailarray.catalog.database import open_catalog

        catalog = await open_catalog(url)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await catalog.used(addresses)
        finally:
            await catalog.close()

    def close(self) -> None:
        self._runner.close()


def _url(settings: CatalogSettings) -> str | None:
    """None: there is no catalog yet, or nobody knows where."""
    try:
        url = settings.current_url()
    except SettingsError:
        return None
    if url.startswith(_SQLITE) and not Path("/" + url.removeprefix(_SQLITE).lstrip("/")).exists():
        return None
    return url
