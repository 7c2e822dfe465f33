"""What the tests on a bare control plane have in common: CRDs, namespaces, resources, waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from mailarray_operator.api import names
from mailarray_operator.cluster.client import ApiError, Client, Json, connect

ROOT = Path(__file__).parent.parent.parent
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
