"""Which kinds the operator reads and writes, and their paths at the API server: one table.

A kind that is not here cannot be applied: the chart's role grants exactly these.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailarray_operator.api import names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Path of the collection, of an object, or of its subresource; namespace "" is all of them."""
        root = "/api" if "/" not in self.api_version else "/apis"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = (f"/{name}" if name else "") + (f"/{subresource}" if subresource else "")
        return f"{root}/{self.api_version}{inside}/{self.plural}{tail}"


MAIL_CLUSTER = Kind("MailCluster", names.API_VERSION, "mailclusters")
MAIL_SERVER = Kind("MailServer", names.API_VERSION, "mailservers")
MIRROR_PAIR = Kind("MirrorPair", names.API_VERSION, "mirrorpairs")
STATEFUL_SET = Kind("StatefulSet", "apps/v1", "statefulsets")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
POD = Kind("Pod", "v1", "pods")
CLAIM = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
SERVICE = Kind("Service", "v1", "services")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SECRET = Kind("Secret", "v1", "secrets")
SERVICE_ACCOUNT = Kind("ServiceAccount", "v1", "serviceaccounts")
NODE = Kind("Node", "v1", "nodes", namespaced=False)
STORAGE_CLASS = Kind("StorageClass", "storage.k8s.io/v1", "storageclasses", namespaced=False)
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
JOB = Kind("Job", "batch/v1", "jobs")
DNS_ENDPOINT = Kind("DNSEndpoint", "externaldns.k8s.io/v1alpha1", "dnsendpoints")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
EVENT = Kind("Event", "events.k8s.io/v1", "events")

CUSTOM = (MAIL_CLUSTER, MAIL_SERVER, MIRROR_PAIR)
_ALL = (
    *CUSTOM, STATEFUL_SET, DEPLOYMENT, POD, CLAIM, SERVICE, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, NODE, STORAGE_CLASS,
    DISRUPTION_BUDGET, NETWORK_POLICY, JOB, DNS_ENDPOINT, LEASE, EVENT,
)  # fmt: skip
_BY_NAME = {(kind.api_version, kind.name): kind for kind in _ALL}


def kind_of(manifest: dict[str, object]) -> Kind:
    """The kind of a manifest. Raises KeyError when the operator may not write it."""
    return _BY_NAME[str(manifest["apiVersion"]), str(manifest["kind"])]
