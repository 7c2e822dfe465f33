"""What the tests on a bare control plane have in common: CRDs, namespaces, resources, waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import ApiError, Client, Json, connect
from mailarray_operator.cluster.kinds import Kind
from tests.support.fake_kubelet import Kubelets
from tests.support.operator_process import RunningOperator

ROOT = Path(__file__).parent.parent.parent
OWN = (
    kinds.STATEFUL_SET, kinds.DEPLOYMENT, kinds.SERVICE, kinds.CONFIG_MAP, kinds.DISRUPTION_BUDGET,
    kinds.NETWORK_POLICY,
)  # fmt: skip
SECONDS = 60.0
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def install_crds(kubeconfig: Path) -> None:
    """All three, served."""
    client = await connect(kubeconfig)
    try:
        for file in sorted((ROOT / "crds").glob("*.yaml")):
            with contextlib.suppress(ApiError):
                await client.post(CRDS, yaml.safe_load(file.read_text()))

        async def served() -> bool:
            found = await client.get(f"/apis/{names.API_VERSION}")
            return {"mailclusters", "mailservers", "mirrorpairs"} <= {r["name"] for r in found["resources"]}

        await until(served, 30, "the CRDs are served")
    finally:
        await client.close()


async def make_namespace(client: Client, name: str) -> None:
    """With the default service account that pods want."""
    await client.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def account() -> bool:
        return bool(await client.get(f"/api/v1/namespaces/{name}/serviceaccounts/default"))

    await until(account, 30, "the namespace has a service account")


async def until(holds: Callable[[], Awaitable[Any]], seconds: float, what: str) -> Any:
    """What `holds` answers, once it is true; what is not there (yet) is not true."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = await holds()
            if last:
                return last
        except ApiError as error:
            if not error.not_found:
                raise
            last = error
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what} (last: {last})")


def mail_cluster(name: str, **spec: Any) -> Json:
    """The smallest MailCluster."""
    wanted = {"domains": [{"name": "mail.example"}], "accounts": {"secretRef": {"name": "accounts"}}, **spec}
    return {"apiVersion": names.API_VERSION, "kind": "MailCluster", "metadata": {"name": name}, "spec": wanted}


def mail_server(name: str, cluster: str, replicas: int, **spec: Any) -> Json:
    """The smallest MailServer."""
    wanted = {"clusterRef": {"name": cluster}, "replicas": replicas, **spec}
    return {"apiVersion": names.API_VERSION, "kind": "MailServer", "metadata": {"name": name}, "spec": wanted}


def condition(resource: Json, type: str) -> str:
    """Its status, "" when it is not there."""
    found = (resource.get("status") or {}).get("conditions") or ()
    return next((str(c["status"]) for c in found if c["type"] == type), "")


@dataclass
class World:
    """A namespace with one cluster of one group, and faked nodes."""

    client: Client
    space: str
    kubeconfig: Path
    folder: Path
    kubelets: Kubelets

    def operator(self, name: str = "operator", *more: str, entry: str = "mailarray_operator.main") -> RunningOperator:
        """One more operator for this namespace."""
        arguments = (f"--namespace={self.space}", f"--operator-namespace={self.space}", *more)
        return RunningOperator(self.kubeconfig, self.folder, *arguments, entry=entry, name=name)

    async def apply_example(self, replicas: int = 3, **spec: Any) -> None:
        """What a person applies."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "accounts"},
            "stringData": {"accounts": ""},
        }
        await self.client.post(kinds.SECRET.path(self.space), secret)
        await self.client.post(kinds.MAIL_CLUSTER.path(self.space), mail_cluster("example", **spec))
        await self.client.post(kinds.MAIL_SERVER.path(self.space), mail_server("mail", "example", replicas))

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
        return condition(cluster, "Ready") == "True" and counts.get("ready") == servers

    async def until_ready(self, servers: int) -> None:
        """Or fail."""
        await until(lambda: self.ready(servers), SECONDS, f"{servers} servers are ready")

    async def rendered(self) -> set[str]:
        """Names of all that the operator has applied."""
        return {f"{kind.name}/{item['metadata']['name']}" for kind in OWN for item in await self.all(kind)}


@asynccontextmanager
async def world(kubeconfig: Path, folder: Path) -> AsyncIterator[World]:
    """A namespace of its own, with nodes."""
    await install_crds(kubeconfig)
    client = await connect(kubeconfig)
    space = f"mail-{uuid.uuid4().hex[:6]}"
    try:
        await make_namespace(client, space)
        async with Kubelets(client, space).running() as kubelets:
            yield World(client, space, kubeconfig, folder, kubelets)
    finally:
        await client.close()
