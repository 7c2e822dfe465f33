"""How much of a server's own mail the catalog does not know yet, as its sidecar says."""

from __future__ import annotations

import pytest

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.rows import CheckIn
from mailarray.model.message import Committed
from mailarray.tracking.catalog_link import CatalogLink
from tests.support.array_of_three import Array, ArrayServer

ANNA = "anna@mail.example"


async def test_what_was_left_without_the_catalog_lags_until_it_is_registered(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_: CatalogLink) -> CheckIn:
        raise CatalogUnavailable("away")

    await array.start()
    one = array.servers[0]
    assert isinstance(await one.deliver(b"before", ANNA), Committed)
    await array.until(lambda: lag(one) == 0)
    with monkeypatch.context() as away:
        away.setattr(CatalogLink, "check_in", nobody)
        for server in array.servers:
            assert server.agent is not None
            server.agent.link.away(CatalogUnavailable("away"))
        assert isinstance(await one.deliver(b"x" * 5000, ANNA), Committed)
        await array.until(lambda: lag(one) > 5000)
        await one.kill_writer()
        await one.start_writer()  # leaves the segment that it wrote
        assert isinstance(await one.deliver(b"y" * 5000, ANNA), Committed)
        await array.until(lambda: lag(one) > 10_000)
    await array.until(lambda: lag(one) == 0)
    await array.until(lambda: all(s.agent is not None and s.agent.status()["catalog"]["open"] for s in array.servers))
    assert sorted(entry.length for entry in await (await array.catalog()).mailbox(ANNA)) == [6, 5000, 5000]


def lag(server: ArrayServer) -> int:
    """As its status says, in bytes."""
    assert server.agent is not None
    lagging = server.agent.status()["lag_bytes"]
    assert isinstance(lagging, int)
    return lagging
