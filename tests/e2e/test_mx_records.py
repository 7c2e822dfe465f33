"""MX records by load, against a real API server; nodes, servers, ExternalDNS and the name server are faked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import MERGE_PATCH, ApiError, Json
from tests.e2e import control_plane_steps as steps
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane_steps import CRDS, SECONDS, World
from tests.support.fake_dns import NameServer, name_server
from tests.support.fake_servers import fake_servers, set_load

CRD = yaml.safe_load((Path(__file__).parent.parent / "support" / "dnsendpoint_crd.yaml").read_text())
ENDPOINT = "example-mail.example"
LEAVES_SECONDS = 15.0  # that a dead server may stay
LOADED_SECONDS = 30.0


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    """Processes that say they are well."""
    with fake_servers():
        yield


@pytest.fixture
async def world(control_plane: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    async with steps.world(control_plane.kubeconfig, tmp_path) as found:
        yield found


@pytest.fixture
async def dns() -> AsyncIterator[NameServer]:
    async with name_server() as server:
        yield server


async def test_records_follow_the_servers(world: World, dns: NameServer) -> None:
    with contextlib.suppress(ApiError):
        await world.client.delete(f"{CRDS}/{CRD['metadata']['name']}", {})
        await asyncio.sleep(1)
    arguments = (f"--dns-server=127.0.0.1:{dns.port}",)
    operator = world.operator("first", *arguments)
    publisher = asyncio.create_task(external_dns(world, dns))
    try:
        operator.wait_ready()
        await world.apply_example()
        path = kinds.MAIL_CLUSTER.path(world.space, "example")
        await world.client.patch(path, {"spec": {"mx": {"ttl": "2s"}}}, MERGE_PATCH)
        await world.until_ready(3)

        # No ExternalDNS: a condition that says so, and records for people in the status.
        await steps.until(lambda: _says(world, "False", "ExternalDNSMissing"), SECONDS, "the missing kind is told")
        shown = (await world.get(kinds.MAIL_CLUSTER, "example"))["status"]["mx"][0]
        assert shown["requested"] == [f"10 mail-{n}.mail.example" for n in range(3)]

        await world.client.post(CRDS, CRD)
        await steps.until(lambda: _published(world, [10, 10, 10]), SECONDS, "the DNSEndpoint appears")
        await steps.until(lambda: _says(world, "True", "Published"), SECONDS, "DNS answers as asked for")

        # A loaded server stands back.
        set_load(world.kubelets.address("mail-1"), 0.97)
        await steps.until(lambda: _published(world, [10, 20, 10]), LOADED_SECONDS, "mail-1 stands back")
        await steps.until(lambda: _shows(world, "mail-1", "StandingBack", "Loaded"), SECONDS, "its place is shown")

        # Another operator goes on from there.
        before = await world.get(kinds.DNS_ENDPOINT, ENDPOINT)
        operator.kill()
        operator = world.operator("second", *arguments)
        operator.wait_ready()
        await steps.until(lambda: _leads(operator), SECONDS, "the second leads")
        await steps.until(lambda: _planned(operator), SECONDS, "it plans")
        after = await world.get(kinds.DNS_ENDPOINT, ENDPOINT)
        assert after["metadata"]["generation"] == before["metadata"]["generation"], "the records jumped"

        # A dead one leaves; nobody else moves, and nothing is ever empty.
        set_load(world.kubelets.address("mail-2"), None)
        await world.kubelets.fail("mail-2")
        await steps.until(lambda: _published(world, [10, 20, None]), LEAVES_SECONDS, "mail-2 leaves")
        assert all(dns.records.values())
        reasons = {e["reason"] for e in await world.all(kinds.EVENT) if str(e.get("note", "")).startswith("MX: ")}
        assert {"Loaded", "Lost"} <= reasons

        # By hand from now on: what is published stays.
        await world.client.patch(path, {"spec": {"mx": {"publish": "None"}}}, MERGE_PATCH)
        await steps.until(lambda: _told_of_what_is_kept(world), SECONDS, "the DNSEndpoint that stays is named")
        assert await world.get(kinds.DNS_ENDPOINT, ENDPOINT)
    finally:
        publisher.cancel()
        operator.stop()
        print(operator.log.read_text()[-3000:])
        with contextlib.suppress(ApiError):
            await world.client.delete(f"{CRDS}/{CRD['metadata']['name']}", {})


async def external_dns(world: World, dns: NameServer) -> None:
    """Hands over what DNSEndpoints hold, and says in their status that it read them."""
    while True:
        with contextlib.suppress(ApiError):
            for item in await world.all(kinds.DNS_ENDPOINT):
                for one in item["spec"]["endpoints"]:
                    dns.records[one["dnsName"], one["recordType"]] = one["targets"]
                read = {"status": {"observedGeneration": item["metadata"]["generation"]}}
                name = item["metadata"]["name"]
                await world.client.patch(kinds.DNS_ENDPOINT.path(world.space, name, "status"), read, MERGE_PATCH)
        await asyncio.sleep(0.5)


async def _published(world: World, preferences: list[int | None]) -> bool:
    """Whether the DNSEndpoint has these preferences of mail-0, mail-1, ..."""
    wanted = sorted(f"{p} mail-{n}.mail.example" for n, p in enumerate(preferences) if p is not None)
    found = (await world.get(kinds.DNS_ENDPOINT, ENDPOINT))["spec"]["endpoints"]
    return bool(_of_type(found, "MX")["targets"] == wanted)


def _of_type(endpoints: list[Json], type_: str) -> Json:
    (found,) = [one for one in endpoints if one["recordType"] == type_]
    return found


async def _condition(world: World, type_: str) -> dict[str, Any]:
    cluster = await world.get(kinds.MAIL_CLUSTER, "example")
    found = (cluster.get("status") or {}).get("conditions") or ()
    return next((c for c in found if c["type"] == type_), {})


async def _says(world: World, status: str, reason: str) -> bool:
    found = await _condition(world, "DNSPublished")
    return (found.get("status"), found.get("reason")) == (status, reason)


async def _shows(world: World, server: str, band: str, reason: str) -> bool:
    target = (await world.get(kinds.MAIL_CLUSTER, "example"))["status"]["mxPlan"]["targets"][-1]
    return (target["server"], target["band"], target["reason"]) == (server, band, reason)


async def _told_of_what_is_kept(world: World) -> bool:
    return ENDPOINT in (await _condition(world, "DNSPublished")).get("message", "")


async def _leads(operator: Any) -> bool:
    return bool(operator.leads())


async def _planned(operator: Any) -> bool:
    return bool(operator.metric("mailarray_operator_mx_plan_seconds_count") >= 3)
