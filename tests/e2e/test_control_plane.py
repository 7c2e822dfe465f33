"""The operator against a real API server and controller manager; nodes, kubelets and servers are faked."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import MERGE_PATCH, ApiError, Client, Json, connect
from mailarray_operator.cluster.kinds import Kind
from tests.e2e import control_plane_steps as steps
from tests.e2e.cluster import Cluster
from tests.support import dying_operator
from tests.support.fake_kubelet import Kubelets
from tests.support.fake_servers import fake_servers
from tests.support.operator_process import RunningOperator

OWN = (
    kinds.STATEFUL_SET, kinds.DEPLOYMENT, kinds.SERVICE, kinds.CONFIG_MAP, kinds.DISRUPTION_BUDGET,
    kinds.NETWORK_POLICY,
)  # fmt: skip
USERS = (*kinds.CUSTOM, kinds.SECRET)
SECONDS = 60.0


@dataclass
class World:
    """A namespace with one cluster of one group, and faked nodes."""

    client: Client
    space: str
    kubeconfig: Path
    folder: Path

    def operator(self, name: str = "operator", *more: str, entry: str = "mailarray_operator.main") -> RunningOperator:
        """One more operator for this namespace."""
        arguments = (f"--namespace={self.space}", f"--operator-namespace={self.space}", *more)
        return RunningOperator(self.kubeconfig, self.folder, *arguments, entry=entry, name=name)

    async def apply_example(self, replicas: int = 3) -> None:
        """What a person applies."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "accounts"},
            "stringData": {"accounts": ""},
        }
        await self.client.post(kinds.SECRET.path(self.space), secret)
        await self.client.post(kinds.MAIL_CLUSTER.path(self.space), steps.mail_cluster("example"))
        await self.client.post(kinds.MAIL_SERVER.path(self.space), steps.mail_server("mail", "example", replicas))

    async def get(self, kind: Kind, name: str) -> Json:
        """One object."""
        return await self.client.get(kind.path(self.space, name))

    async def all(self, kind: Kind) -> list[Json]:
        """All objects of a kind that the operator or a user made."""
        found = await self.client.get(kind.path(self.space))
        return [item for item in found["items"] if item["metadata"]["name"] != "kube-root-ca.crt"]

    async def ready(self, servers: int) -> bool:
        """Whether that many servers serve, by the status."""
        cluster = await self.get(kinds.MAIL_CLUSTER, "example")
        counts = (cluster.get("status") or {}).get("servers") or {}
        return steps.condition(cluster, "Ready") == "True" and counts.get("ready") == servers

    async def until_ready(self, servers: int) -> None:
        """Or fail."""
        await steps.until(lambda: self.ready(servers), SECONDS, f"{servers} servers are ready")

    async def rendered(self) -> set[str]:
        """Names of all that the operator has applied."""
        return {f"{kind.name}/{item['metadata']['name']}" for kind in OWN for item in await self.all(kind)}


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    """Processes that say they are well."""
    with fake_servers():
        yield


@asynccontextmanager
async def _world(kubeconfig: Path, folder: Path) -> AsyncIterator[World]:
    await steps.install_crds(kubeconfig)
    client = await connect(kubeconfig)
    space = f"mail-{uuid.uuid4().hex[:6]}"
    try:
        await steps.make_namespace(client, space)
        async with Kubelets(client, space).running():
            yield World(client, space, kubeconfig, folder)
    finally:
        await client.close()


@pytest.fixture
async def world(control_plane: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    async with _world(control_plane.kubeconfig, tmp_path) as found:
        yield found


async def test_from_example_to_deletion(world: World) -> None:
    operator = world.operator()
    try:
        operator.wait_ready()
        await world.apply_example()
        await world.until_ready(3)
        table = await world.get(kinds.CONFIG_MAP, names.mirroring_table("example"))
        assert '"mail-2"' in table["data"][names.FILE_TABLE]
        await steps.until(lambda: _tables_taken(operator), SECONDS, "all processes have the table")

        # Up by the MailServer, up by `kubectl scale statefulset`.
        scale = {"spec": {"replicas": 4}}
        await world.client.patch(kinds.MAIL_SERVER.path(world.space, "mail", "scale"), scale, MERGE_PATCH)
        await world.until_ready(4)
        await world.client.patch(kinds.STATEFUL_SET.path(world.space, "mail", "scale"), {"spec": {"replicas": 5}})
        await world.until_ready(5)
        assert (await world.get(kinds.MAIL_SERVER, "mail"))["spec"]["replicas"] == 5

        # What somebody breaks is mended.
        budget = names.disruption_budget("example")
        await world.client.delete(kinds.DISRUPTION_BUDGET.path(world.space, budget), {})
        await steps.until(lambda: world.get(kinds.DISRUPTION_BUDGET, budget), SECONDS, "the budget is back")
        strategy = {"spec": {"updateStrategy": {"type": "RollingUpdate"}}}
        await world.client.patch(kinds.STATEFUL_SET.path(world.space, "mail"), strategy)
        await steps.until(lambda: _on_delete(world), SECONDS, "the update strategy is as rendered again")

        # Nothing of the operator's stands in the way of a deletion.
        for kind in (*USERS, *OWN):
            for item in await world.all(kind):
                assert not item["metadata"].get("finalizers"), item["metadata"]
                assert "kopf" not in str(item["metadata"].get("annotations"))
        operator.stop()
        await world.client.delete(kinds.MAIL_SERVER.path(world.space, "mail"), {})
        await world.client.delete(kinds.MAIL_CLUSTER.path(world.space, "example"), {})
        await steps.until(lambda: _gone(world, kinds.STATEFUL_SET, "mail"), SECONDS, "the servers are gone")
        assert {c["metadata"]["name"] for c in await world.all(kinds.CLAIM)} >= {f"volume-mail-{n}" for n in range(5)}
    finally:
        assert operator.stop() == 0, operator.log.read_text()[-4000:]


async def test_a_second_operator_takes_over(world: World) -> None:
    first, second = world.operator("first"), None
    try:
        first.wait_ready()
        await steps.until(lambda: _leads(first), 10, "the first leads")
        second = world.operator("second")
        second.wait_ready()
        assert not second.leads()
        began = time.monotonic()
        first.stop()
        await steps.until(lambda: _leads(second), 10, "the second leads")
        assert time.monotonic() - began < 5, "the Lease was not given back"
        await world.apply_example()
        await world.until_ready(3)
        first = world.operator("third")
        first.wait_ready()
        second.kill()
        await steps.until(lambda: _leads(first), 30, "the third leads")
        await world.client.patch(kinds.MAIL_SERVER.path(world.space, "mail"), {"spec": {"replicas": 4}})
        await world.until_ready(4)
    finally:
        first.stop()
        if second is not None:
            second.stop()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_dies_at_every_third_write(world: World, when: str) -> None:
    """Whatever a dead operator left half done, the next one ends the same."""
    await world.apply_example()
    deaths = 0
    for number in range(1, 40, 3):
        operator = world.operator(
            f"dying-{number}", "--no-leader-elect", f"--die-{when}={number}", entry="tests.support.dying_operator"
        )
        try:
            status = await steps.until(lambda o=operator: _ended_or_quiet(o, world), SECONDS, "it dies, or is done")  # type: ignore[misc]
        finally:
            operator.kill()
        if status != dying_operator.DIED:
            break
        deaths += 1
    print(f"{deaths} deaths")
    assert deaths >= 3
    last = world.operator("last")
    try:
        last.wait_ready()
        await world.until_ready(3)
        rendered = await world.rendered()
        assert {"StatefulSet/mail", "Service/example-servers", "Deployment/example-access"} <= rendered
        assert len([name for name in rendered if "mail-settings" in name]) == 1
        assert {s["metadata"]["name"] for s in await world.all(kinds.SECRET)} == {
            "accounts",
            names.internal_secret("example"),
            names.database("example"),
        }
    finally:
        last.stop()


async def _tables_taken(operator: RunningOperator) -> bool:
    return operator.metric("mailarray_operator_mirroring_tables_behind") == 0


async def _leads(operator: RunningOperator) -> bool:
    return operator.leads()


async def _on_delete(world: World) -> bool:
    found = await world.get(kinds.STATEFUL_SET, "mail")
    return bool(found["spec"]["updateStrategy"]["type"] == "OnDelete")


async def _gone(world: World, kind: Kind, name: str) -> bool:
    try:
        await world.get(kind, name)
    except ApiError as error:
        return error.not_found
    return False


async def _ended_or_quiet(operator: RunningOperator, world: World) -> int:
    """Its exit status; -1 when all is as wanted and it lives."""
    status = operator.process.poll()
    if status is not None:
        return status
    return -1 if await world.ready(3) and operator.metric("mailarray_operator_queue_depth") == 0 else 0
