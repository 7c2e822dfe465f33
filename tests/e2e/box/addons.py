"""What a cluster has beside its control plane: DNS, and the objects that the box makes itself, as manifests.

Node objects are made before their kubelets start, so that each has the pod network that its routes are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.box import network
from tests.e2e.box.node import Node

Manifest = dict[str, Any]
STORAGE_CLASS = "local"
SMALL_CLASS = "small"  # volumes that a test makes, to see them full


def nodes(all_nodes: Sequence[Node]) -> list[Manifest]:
    """Node objects with their zones and pod networks."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": node.name,
                "labels": {"topology.kubernetes.io/zone": node.zone, "kubernetes.io/hostname": node.name},
            },
            "spec": {
                "podCIDR": network.pod_network(node.index),
                "podCIDRs": [network.pod_network(node.index)],
                # kubelet's first report takes it away
                "taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}],
            },
        }
        for node in all_nodes
    ]


def dns() -> list[Manifest]:
    """The Service `kube-dns`, which leads to the CoreDNS in the switch, and what CoreDNS may read."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    system = {"namespace": "kube-system"}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": labels, **system},
        "spec": {"clusterIP": network.DNS_SERVICE, "ports": ports},
    }
    slice_labels = {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "box"}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns-box", "labels": slice_labels, **system},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [network.SWITCH_ADDRESS], "conditions": {"ready": True}}],
        "ports": ports,
    }
    return [role, binding, service, endpoints]


def external_dns(crd: str) -> list[Manifest]:
    """The DNSEndpoint's definition, and what ExternalDNS may do: read them, and say which version it has seen."""
    name = "external-dns"
    group = "externaldns.k8s.io"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [
            {"apiGroups": [group], "resources": ["dnsendpoints"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [group], "resources": ["dnsendpoints/status"], "verbs": ["update"]},
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    return [*yaml.safe_load_all(crd), role, binding]


def storage_class(name: str = STORAGE_CLASS) -> Manifest:
    """A class of folders of the node that the pod is put on; `local` is the default class."""
    default = "true" if name == STORAGE_CLASS else "false"
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def corefile(kubeconfig: Path, zones: Sequence[str]) -> str:
    """CoreDNS's settings. Answers live for two seconds: a test sees a change soon. `zones` are asked of PowerDNS, whose
    answers are not kept; `max_fails 0` asks it each time, so that its absence ends when it does."""
    return f"""cluster.local 10.in-addr.arpa {{
    bind {network.SWITCH_ADDRESS}
    errors
    kubernetes {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 2
    }}
    reload
}}
{" ".join(zones)} {{
    bind {network.SWITCH_ADDRESS}
    errors
    forward . {network.NAME_SERVER_ADDRESS} {{
        max_fails 0
    }}
}}
. {{
    bind {network.SWITCH_ADDRESS}
    ready {network.SWITCH_ADDRESS}:8181
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
