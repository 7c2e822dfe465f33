"""Nodes and kubelets that only say so: binds pods to nodes, says that they are ready, ends those that are to end.

For tests on an API server with a controller manager and no machine. Every pod gets an address of its own on loopback,
where `fake_servers.py` may answer; a pod that comes back has the one it had, and so the same volume. With `disks` its
claim is bound to one before the pod is ready, as everywhere; without, the operator takes a server that does not answer
for one that never held anything.
"""

# ruff: noqa: ASYNC110  # polls: what is awaited has no event
from __future__ import annotations

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import AsyncIterator

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import ApiError, Client, Json
from mailarray_operator.cluster.kinds import Kind
from mailarray_operator.cluster.watch import Watch

AT_ONCE = 12
STRATEGIC = "application/strategic-merge-patch+json"
POLL_SECONDS = 0.05
VOLUMES = "/api/v1/persistentvolumes"

_networks = itertools.count()  # no two of a process share addresses


class Kubelets:
    """As many nodes as there are zones; a pod comes back to the node it was on, as one with a local volume does."""

    def __init__(self, client: Client, namespace: str, zones: int = 3, *, disks: bool = True) -> None:
        self._client = client
        self._disks = disks
        self._namespace = namespace
        self._nodes = [f"node-{n}" for n in range(zones)]
        network = 64 + next(_networks) % 128
        self._free = (f"127.{network}.{a}.{b}" for a, b in itertools.product(range(256), range(1, 255)))
        self._addresses: dict[str, str] = {}  # by pod
        self._work: asyncio.Queue[Json] = asyncio.Queue()
        self._seen: set[tuple[str, bool]] = set()
        self.ready: set[str] = set()  # names of pods
        self.ended: list[str] = []  # names of pods that were stopped, in order
        self.paused = asyncio.Event()  # cleared: nothing becomes ready
        self.paused.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Kubelets]:
        """For as long as the context lasts."""
        for number, node in enumerate(self._nodes):
            labels = {names.LABEL_ZONE: f"zone-{number}", "kubernetes.io/hostname": node}
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
            with contextlib.suppress(ApiError):
                await self._client.post(kinds.NODE.path(""), body)
        watch = Watch(self._client, kinds.POD, self._namespace, self._take)
        tasks = [asyncio.create_task(watch.run()), *(asyncio.create_task(self._run()) for _ in range(AT_ONCE))]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def address(self, pod: str) -> str:
        """Of a pod that was started."""
        return self._addresses[pod]

    async def fail(self, pod: str) -> None:
        """Its probes fail from now on."""
        conditions = [{"type": t, "status": "False"} for t in ("ContainersReady", "Ready")]
        await self._client.patch(
            kinds.POD.path(self._namespace, pod, "status"), {"status": {"conditions": conditions}}, STRATEGIC
        )

    def _take(self, kind: Kind, pod: Json, there: bool) -> None:
        metadata = pod["metadata"]
        if not there:
            self.ready.discard(metadata["name"])
            self.ended.append(metadata["name"])
            return
        what = (metadata["uid"], "deletionTimestamp" in metadata)
        if what not in self._seen:
            self._seen.add(what)
            self._work.put_nowait(pod)

    async def _run(self) -> None:
        while True:
            pod = await self._work.get()
            try:
                await self._end(pod) if "deletionTimestamp" in pod["metadata"] else await self._start(pod)
            except ApiError as error:
                if not error.not_found and not error.conflict:
                    raise

    async def _end(self, pod: Json) -> None:
        metadata = pod["metadata"]
        while await self._counts_as_evicted(metadata["name"]):
            await asyncio.sleep(POLL_SECONDS)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        await self._client.delete(kinds.POD.path(metadata["namespace"], metadata["name"]), options)

    async def _counts_as_evicted(self, pod: str) -> bool:
        """Whether a disruption budget has not seen yet that it stops: it knows pods by name, for two minutes.

        A pod that is back within a moment, which no process manages, would count as away for so long.
        """
        budgets = await self._client.get(kinds.DISRUPTION_BUDGET.path(self._namespace))
        return any(pod in ((budget.get("status") or {}).get("disruptedPods") or ()) for budget in budgets["items"])

    async def _start(self, pod: Json) -> None:
        await self.paused.wait()
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if not pod["spec"].get("nodeName"):
            node = self._nodes[zlib.crc32(name.encode()) % len(self._nodes)]
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            await self._client.post(kinds.POD.path(namespace, name, "binding"), binding)
        if self._disks:
            for volume in pod["spec"].get("volumes") or ():
                if "persistentVolumeClaim" in volume:
                    await self._bind(namespace, volume["persistentVolumeClaim"]["claimName"])
        if name not in self._addresses:
            self._addresses[name] = next(self._free)
        address = self._addresses[name]
        containers = [
            {"name": c["name"], "ready": True, "restartCount": 0, "image": c["image"], "imageID": ""}
            for c in pod["spec"]["containers"]
        ]  # fmt: skip
        conditions = [
            {"type": t, "status": "True"} for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": conditions,
            "containerStatuses": containers,
        }
        await self._client.patch(kinds.POD.path(namespace, name, "status"), {"status": status})
        self.ready.add(name)

    async def _bind(self, namespace: str, name: str) -> None:
        """A PersistentVolume for this very claim; the controller manager binds the two."""
        path = kinds.CLAIM.path(namespace, name)
        claim = await self._client.get(path)
        if not claim["spec"].get("volumeName"):
            uid = claim["metadata"]["uid"]
            reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name}
            spec = {
                "capacity": claim["spec"]["resources"]["requests"],
                "accessModes": claim["spec"]["accessModes"],
                "storageClassName": claim["spec"].get("storageClassName", ""),
                "claimRef": {**reference, "uid": uid},
                "hostPath": {"path": f"/nowhere/{uid}"},
            }
            volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": uid}, "spec": spec}
            with contextlib.suppress(ApiError):  # there, when this pod's predecessor was on the way
                await self._client.post(VOLUMES, volume)
        while (claim.get("status") or {}).get("phase") != "Bound":
            await asyncio.sleep(POLL_SECONDS)
            claim = await self._client.get(path)
