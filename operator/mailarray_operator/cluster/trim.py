"""From an object of the API server to the few fields that decisions read. Pure; refuses nothing but a malformed spec.

Called by the store for each object as it comes; the object itself is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

from mailarray.contract import mirroring_table
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.reading import Document, Reader, ResourceError
from mailarray_operator.api import names
from mailarray_operator.plan.observation import Claim, Pod, Resource, StatefulSet

Json = Mapping[str, Any]
T = TypeVar("T")

MAX_PROBLEM = 200  # characters of why a pod does not run
_LAST_WORDS = "mailarray: "  # what a process says of the error that it ends by begins so

_QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|Ei|m|k|M|G|T|P|E)?")
_UNITS = {
    None: 1, "m": 1e-3, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Managed:
    """An object that the operator applies, as it stands: what tells whether somebody else has changed it."""

    uid: str
    applied: str  # annotation: hash of what was applied
    owned: str  # digest of the fields that the API server says are ours: another's change takes a field from us
    cluster: str
    group: str  # "" when it belongs to the whole cluster
    created: str  # RFC 3339


def resource(body: Json, cls: type[T]) -> tuple[Resource, T | None]:
    """A custom resource; its spec is None, and its error one sentence, when it cannot be read."""
    metadata = body["metadata"]
    spec: T | None = None
    error = ""
    try:
        spec = _Reader(Document("", 1, dict(body))).read(cls, body.get("spec") or {}, "spec")
    except ResourceError as problem:
        error = str(problem)
    known = Resource(
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        status=body.get("status") or {},
        error=error,
        created=metadata.get("creationTimestamp") or "",
    )
    return known, spec


class _Reader(Reader):
    """Sentences stand in the resource's own conditions, so they need not name it."""

    def fail(self, path: str, text: str) -> ResourceError:
        return ResourceError(f"{path} {text}")


def cluster_of(body: Json) -> str:
    """spec.clusterRef.name of a MailServer or MirrorPair, "" when it cannot be read."""
    reference = (body.get("spec") or {}).get("clusterRef")
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else ""


def referenced_secrets(cluster: str, spec: MailClusterSpec | None) -> frozenset[str]:
    """Secrets that a MailCluster needs, its own included."""
    wanted = {names.internal_secret(cluster)}
    if spec is not None:
        if spec.accounts.secret_ref:
            wanted.add(spec.accounts.secret_ref.name)
        if spec.tls:
            wanted.add(spec.tls.secret_ref.name)
        reference = spec.catalog.database_secret_ref
        wanted.add(reference.name if reference else names.database(cluster))
    return frozenset(wanted)


def pod(body: Json, zones: Mapping[str, str]) -> Pod:
    """One pod."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    node = spec.get("nodeName") or ""
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        node=node,
        zone=zones.get(node, ""),
        ip=status.get("podIP") or "",
        ready=conditions.get("Ready", {}).get("status") == "True",
        terminating="deletionTimestamp" in metadata,
        revision=(metadata.get("labels") or {}).get("controller-revision-hash", ""),
        claim_problem=_problem(status, conditions),
        failures=_failures(status),
        started=frozenset(c["name"] for c in status.get("containerStatuses") or () if c.get("started")),
        host_ips=host_ips(status),
    )


def host_ips(status: Json) -> tuple[str, ...]:
    """Addresses of a pod's node, from the pod's status: the role need not read nodes for these."""
    found = [entry.get("ip") for entry in status.get("hostIPs") or ()] or [status.get("hostIP")]
    return tuple(ip for ip in found if ip)


def service_ips(body: Json) -> tuple[str, ...]:
    """Addresses that a load balancer gave to a Service; one that is known by name alone has none."""
    ingress = ((body.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(sorted(entry["ip"] for entry in ingress if entry.get("ip")))


def external_ips(body: Json) -> tuple[str, ...]:
    """Addresses of a node in the outside world."""
    found = (body.get("status") or {}).get("addresses") or ()
    return tuple(sorted(entry["address"] for entry in found if entry.get("type") == "ExternalIP"))


def _problem(status: Json, conditions: Mapping[str, Json]) -> str:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"it cannot be scheduled: {scheduled.get('message') or scheduled.get('reason') or 'no reason given'}"[
            :MAX_PROBLEM
        ]
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            said = waiting.get("message") or ""
            return f"container {container['name']} waits: {waiting['reason']}{': ' if said else ''}{said}"[:MAX_PROBLEM]
    return ""


def _failures(status: Json) -> dict[str, str]:
    """Containers that ended by themselves and are not ready since; what they said last, when they said it."""
    found = {}
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated")
        before = (container.get("lastState") or {}).get("terminated")
        crashes = waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing")
        if container.get("ready") or not (crashes or ended or before):
            continue
        lines = [line for line in ((ended or before or {}).get("message") or "").splitlines() if line.strip()]
        words = lines[-1].strip() if lines else ""
        if words.startswith(_LAST_WORDS):
            found[container["name"]] = words.removeprefix(_LAST_WORDS)[:MAX_PROBLEM]
            continue
        last = ended or before
        how = f"ended with exit code {last.get('exitCode')}" if last else ""
        why = waiting.get("reason") if crashes and not last else (last or {}).get("reason")
        detail = waiting.get("message") if crashes and not last else ""
        told = ", ".join(filter(None, (how, why)))
        found[container["name"]] = f"container {container['name']}: {told}{f': {detail}' if detail else ''}"[
            :MAX_PROBLEM
        ]
    return found


def config_maps(spec: Json) -> tuple[str, ...]:
    """Names of ConfigMaps that a pod's spec mounts."""
    found = {v["configMap"]["name"] for v in spec.get("volumes") or () if "configMap" in v}
    for volume in spec.get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "configMap" in source:
                found.add(source["configMap"]["name"])
    return tuple(sorted(found))


def claim(body: Json, expandable: bool | None) -> Claim:
    """One PersistentVolumeClaim."""
    requests = ((body.get("spec") or {}).get("resources") or {}).get("requests") or {}
    status = body.get("status") or {}
    capacity = status.get("capacity") or {}
    return Claim(
        name=body["metadata"]["name"],
        uid=body["metadata"]["uid"],
        requested=quantity(requests.get("storage", "0")),
        capacity=quantity(capacity.get("storage", "0")),
        expandable=expandable,
        lost=status.get("phase") == "Lost",
    )


def stateful_set(body: Json) -> StatefulSet:
    """One StatefulSet."""
    metadata, status = body["metadata"], body.get("status") or {}
    annotations = metadata.get("annotations") or {}
    recorded = annotations.get(names.ANNOTATION_REPLICAS, "")
    seen = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    return StatefulSet(
        replicas=(body.get("spec") or {}).get("replicas", 1),
        recorded=int(recorded) if recorded.isdigit() else None,
        update_revision=(status.get("updateRevision") or "") if seen else "",
        drain=annotations.get(names.ANNOTATION_DRAIN, ""),
        claim_size=claim_template_size(body),
    )


def claim_template_size(body: Json) -> int | None:
    """Bytes that the one volume claim template of a StatefulSet asks for."""
    for template in (body.get("spec") or {}).get("volumeClaimTemplates") or ():
        requests = (template["spec"].get("resources") or {}).get("requests") or {}
        return quantity(requests.get("storage", "0"))
    return None


def table(body: Json) -> mirroring_table.MirroringTable | None:
    """The mirroring table in its ConfigMap; None when nobody can read it, and a new one is due."""
    try:
        return mirroring_table.parse((body.get("data") or {}).get(names.FILE_TABLE, ""))
    except ValueError:
        return None


def managed(body: Json) -> Managed:
    """See Managed."""
    metadata = body["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    ours = [
        entry.get("fieldsV1")
        for entry in metadata.get("managedFields") or ()
        if entry.get("manager") == names.FIELD_MANAGER
        and entry.get("operation") == "Apply"
        and not entry.get("subresource")
    ]
    return Managed(
        uid=metadata.get("uid", ""),
        applied=annotations.get(names.ANNOTATION_APPLIED, ""),
        owned=digest(ours) if ours else "",
        cluster=labels.get(names.LABEL_CLUSTER, ""),
        group=labels.get(names.LABEL_GROUP, ""),
        created=metadata.get("creationTimestamp") or "",
    )


def digest(value: object) -> str:
    """Short hash of anything that is JSON; the same for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def quantity(text: object) -> int:
    """Bytes of a Kubernetes quantity; 0 when it is none."""
    match = _QUANTITY.fullmatch(str(text))
    return int(float(match[1]) * _UNITS[match[2]]) if match and match[2] else int(float(match[1])) if match else 0
