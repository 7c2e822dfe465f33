"""The pace of the sidecar's loops: look, and look again after a while or when woken, whatever went wrong meanwhile.

Knows nothing of what is looked at. Used by settling, repairing and draining.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.journal.volume import VolumeError
from mailarray.tracking.catalog_link import CatalogLink


async def woken(wake: asyncio.Event, seconds: float) -> None:
    """Until `wake` is set, which is taken back, or so many seconds have passed."""
    alarm = asyncio.get_running_loop().call_later(seconds, wake.set)
    try:
        await wake.wait()
    finally:
        alarm.cancel()
    wake.clear()


async def look_again_and_again(
    look: Callable[[], Awaitable[None]],
    link: CatalogLink,
    wake: asyncio.Event,
    interval: float,
    failed: Callable[[Exception], None],
) -> None:
    """Until cancelled. The link hears of a catalog that is away, `failed` of a volume that does not do its work."""
    while True:
        try:
            await look()
        except CatalogUnavailable as error:
            link.away(error)
        except (OSError, VolumeError) as error:
            failed(error)
        await woken(wake, interval)
