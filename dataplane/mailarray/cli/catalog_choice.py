"""Which catalog a command works on: named by URL, by a process' settings file, or by the data folder of an array.

Used by the commands that speak to the database themselves, `mailarray volume` and `mailarray missing`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailarray.cli.array_settings import access_settings, process_settings

if TYPE_CHECKING:
    from mailarray.catalog.catalog import Catalog

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def catalog_options(command: F) -> F:
    """The options that say which catalog."""
    command = click.option(
        "--data", default="data", type=click.Path(path_type=Path), show_default=True, help="The data folder."
    )(command)
    command = click.option(
        "--settings", "settings_file", type=click.Path(path_type=Path), help="Settings file of a process."
    )(command)
    return click.option(
        "--catalog",
        "url",
        envvar="MAILARRAY_CATALOG_URL",
        help="URL of the catalog, instead of a data folder: sqlite:///path or postgresql://user:password@host/name.",
    )(command)


def catalog_url(url: str | None, settings_file: Path | None, data: Path) -> str:
    """What the options say. Raises ClickException."""
    if settings_file is not None:
        return process_settings(settings_file).catalog.current_url()
    return url or access_settings(data).catalog.current_url()


async def with_catalog(url: str, work: Callable[[Catalog], Awaitable[T]]) -> T:
    """Work on that catalog, and close it. Raises ClickException when it does not answer."""
    from mailarray.catalog.catalog import CatalogUnavailable
    from mailarray.catalog.database import open_catalog

    try:
        catalog = await open_catalog(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        return await work(catalog)
    except CatalogUnavailable as error:
        raise click.ClickException(f"the catalog does not answer: {error}") from None
    finally:
        await catalog.close()
