"""The internal port."""

from __future__ import annotations

import dataclasses

import aiohttp

from mailarray.contract import mirroring_table
from tests.support.access_fakes import MAILBOX, PASSWORD, TOKEN, FakeArray
from tests.support.pop3_dialog import Client


async def test_health_metrics_status_and_lookup(array: FakeArray) -> None:
    placement = array.deliver(b"x\r\n")
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        await client.retrieve(1)
        assert array.access is not None
        base = f"http://127.0.0.1:{array.access.internal.port}"
        token = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(base) as http:
            assert (await http.get("/healthz")).status == 200
            assert (await http.get("/v1/status")).status == 401
            assert (await http.get("/v1/status", headers={"Authorization": "Bearer x"})).status == 401
            assert (await http.get("/metrics")).status == 401
            status = await (await http.get("/v1/status", headers=token)).json()
            assert (status["name"], status["sessions"], status["catalog"]) == ("access-0", 1, "connected")
            assert status["logins"]["ok"] >= 1
            found = await (await http.get(f"/v1/mailboxes/{MAILBOX}", headers=token)).json()
            assert found == {"mailbox": MAILBOX, "count": 1, "placements": [str(placement)]}
            metrics = await (await http.get("/metrics", headers=token)).text()
            assert "mailarray_access_sessions 1.0" in metrics
            assert await (await http.get("/readyz")).text() == "ready\n"
            table = array.access.array._table
            newer = mirroring_table.dump(dataclasses.replace(table, generation=table.generation + 4))
            for taken in (True, False):
                answer = await http.put("/v1/mirroring-table", data=newer, headers=token)
                assert await answer.json() == {"generation": table.generation + 4, "taken": taken}
            assert (await http.put("/v1/mirroring-table", data=newer)).status == 401
            assert (await http.put("/v1/mirroring-table", data="{}", headers=token)).status == 400
            status = await (await http.get("/v1/status", headers=token)).json()
            assert status["table_generation"] == table.generation + 4
            array.catalog.away = True
            assert (await http.get(f"/v1/mailboxes/{MAILBOX}", headers=token)).status == 503
            status = await (await http.get("/v1/status", headers=token)).json()
            assert status["catalog"] == "away"
