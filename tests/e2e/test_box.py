"""The cluster that tests run on is a real one: what they rely on, shown once."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.box import BoxError
from tests.e2e.box.box import EXTERNAL_DNS, POWERDNS
from tests.e2e.cluster import Cluster

SERVERS = 3
BY_HAND = "by-hand.example"


def web(image: str, pull_policy: str) -> list[dict[str, Any]]:
    """A web server on each node that serves its own volume, with a headless Service and a ClusterIP."""
    labels = {"app": "web"}
    container = {
        "name": "web",
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": [
            "sh",
            "-c",
            "hostname >> /data/index.html; echo started; exec python3 -m http.server -d /data 8080",
        ],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "terminationGracePeriodSeconds": 1,
        "topologySpreadConstraints": [spread],
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 8080}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "any"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "web"},
            "spec": {
                "serviceName": "web",
                "replicas": SERVERS,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
            },
        },
    ]


@pytest.fixture(scope="module")
def servers(cluster: Cluster) -> Iterator[str]:
    """The namespace of three running web servers."""
    (image,) = cluster.images("client")
    with cluster.namespace("box") as name:
        cluster.apply(*web(image, cluster.pull_policy), namespace=name)
        cluster.kubectl("rollout", "status", "statefulset/web", "-n", name, "--timeout=90s", seconds=100)
        yield name


def address(cluster: Cluster, namespace: str, kind: str, name: str) -> str:
    found = cluster.get(kind, name, "-n", namespace)
    return str(found["status"]["podIP"] if kind == "pod" else found["spec"]["clusterIP"])


def fetch(host: str, port: int = 8080) -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as response:
        return str(response.read().decode())


def test_three_nodes_in_three_zones(cluster: Cluster) -> None:
    nodes = cluster.get("nodes", "-l", "topology.kubernetes.io/zone")["items"]
    zones = {node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes}
    assert len(zones) == SERVERS
    assert all(cluster.ready(node["metadata"]["name"]) for node in nodes)


def test_each_server_has_a_node_and_a_volume(cluster: Cluster, servers: str) -> None:
    pods = cluster.get("pods", "-n", servers, "-l", "app=web")["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == SERVERS
    for number in range(SERVERS):
        assert f"web-{number}" in cluster.execute(f"web-{number}", "cat", "/data/index.html", namespace=servers)
        assert "started" in cluster.kubectl("logs", "-n", servers, f"web-{number}")


def test_names_resolve(cluster: Cluster, servers: str) -> None:
    pods = {f"web-{number}": address(cluster, servers, "pod", f"web-{number}") for number in range(SERVERS)}
    domain = f"web.{servers}.svc.cluster.local"
    found = cluster.execute("web-0", "dig", "+short", domain, namespace=servers).split()
    assert sorted(found) == sorted(pods.values())
    for name, ip in pods.items():
        assert cluster.execute("web-0", "dig", "+short", f"{name}.{domain}", namespace=servers).split() == [ip]


def test_services_and_pods_are_reached_from_here_and_from_pods(cluster: Cluster, servers: str) -> None:
    assert cluster.box  # another cluster's pods are not reached from here
    service = address(cluster, servers, "service", "any")
    assert {fetch(service, 80).split()[0] for _ in range(40)} == {f"web-{number}" for number in range(SERVERS)}
    for number in range(SERVERS):
        assert fetch(address(cluster, servers, "pod", f"web-{number}")).startswith(f"web-{number}")
    # Also a pod of the same node, its own self included.
    script = "for i in $(seq 40); do curl -s -m 3 http://any/ || exit 1; done"
    seen = cluster.execute("web-0", "sh", "-c", script, namespace=servers)
    assert set(seen.split()) == {f"web-{number}" for number in range(SERVERS)}


def test_nothing_outside_is_reached(cluster: Cluster, servers: str) -> None:
    assert cluster.box
    script = "curl -s -m 3 http://192.0.2.2/ http://198.51.100.1/; echo status $?"
    assert "status 0" not in cluster.execute("web-0", "sh", "-c", script, namespace=servers)
    assert cluster.execute("web-0", "dig", "+short", "example.org", namespace=servers).strip() == ""


def mx_records(*lines: str) -> dict[str, Any]:
    """A DNSEndpoint with MX records of a zone that is the box's own."""
    records = {"dnsName": BY_HAND, "recordType": "MX", "recordTTL": 5, "targets": sorted(lines)}
    address = {"dnsName": f"mx.{BY_HAND}", "recordType": "A", "recordTTL": 5, "targets": ["192.0.2.1"]}
    return {
        "apiVersion": "externaldns.k8s.io/v1alpha1",
        "kind": "DNSEndpoint",
        "metadata": {"name": "by-hand"},
        "spec": {"endpoints": [records, address]},
    }


def test_a_dns_endpoint_becomes_records(cluster: Cluster, servers: str) -> None:
    box = cluster.box

    def dig(*words: str) -> set[str]:
        said = cluster.execute("web-0", "dig", "+short", "+tries=1", "+time=2", *words, namespace=servers)
        return set(said.splitlines())

    def seen(*lines: str, what: str) -> None:
        began = time.monotonic()
        dotted = {f"{line}." for line in lines}
        cluster.wait_for(lambda: dig("MX", BY_HAND) == dotted, what, 30)
        print(f"\n{what} after {time.monotonic() - began:.1f} s")

    with cluster.namespace("dns") as namespace:
        cluster.apply(mx_records(f"10 mx.{BY_HAND}", f"20 mx2.{BY_HAND}"), namespace=namespace)
        seen(f"10 mx.{BY_HAND}", f"20 mx2.{BY_HAND}", what="made")
        assert dig("A", f"mx.{BY_HAND}") == {"192.0.2.1"}
        assert dig("NS", BY_HAND) == {f"ns.{BY_HAND}."}
        cluster.apply(mx_records(f"10 mx2.{BY_HAND}"), namespace=namespace)
        seen(f"10 mx2.{BY_HAND}", what="changed")
        box.kill(EXTERNAL_DNS)
        box.kill(POWERDNS)
        with pytest.raises(BoxError):
            cluster.execute("web-0", "dig", "+tries=1", "+time=2", "@10.99.0.252", "MX", BY_HAND, namespace=servers)
        cluster.apply(mx_records(f"30 mx.{BY_HAND}"), namespace=namespace)
        box.start(POWERDNS)
        assert dig("MX", BY_HAND) == {f"10 mx2.{BY_HAND}."}, "a name server that was away has lost its records"
        box.start(EXTERNAL_DNS)
        seen(f"30 mx.{BY_HAND}", what="changed by an ExternalDNS that was away")
    cluster.wait_for(lambda: not dig("MX", BY_HAND), "removed with its DNSEndpoint", 60)


def test_a_new_claim_has_an_empty_volume(cluster: Cluster, servers: str) -> None:
    before = cluster.get("pvc", "data-web-1", "-n", servers)["metadata"]["uid"]
    cluster.kubectl("delete", "-n", servers, "--wait=false", "pvc/data-web-1", "pod/web-1")

    def renewed() -> bool:
        claims = cluster.get("pvc", "-n", servers)["items"]
        return any(
            one["metadata"]["name"] == "data-web-1"
            and one["metadata"]["uid"] != before
            and one["status"]["phase"] == "Bound"
            for one in claims
        )

    cluster.wait_for(renewed, "a new claim that is bound")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/web-1", "-n", servers, "--timeout=60s", seconds=70)
    assert cluster.execute("web-1", "cat", "/data/index.html", namespace=servers) == "web-1\n"


def test_a_small_volume_gets_full(cluster: Cluster, namespace: str) -> None:
    storage_class = cluster.box.add_small_volume(cluster.box.nodes[0], 8)
    (image,) = cluster.images("client")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "small"},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "4Mi"}},
        },
    }
    container = {
        "name": "small",
        "image": image,
        "imagePullPolicy": cluster.pull_policy,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "small"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "small"},
        "spec": {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0},
    }
    cluster.apply(claim, pod, namespace=namespace)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/small", "-n", namespace, "--timeout=60s", seconds=70)
    with pytest.raises(BoxError, match="No space left on device"):
        cluster.execute("small", "dd", "if=/dev/zero", "of=/data/file", "bs=1M", "count=9", namespace=namespace)


def test_a_node_that_is_cut_off_is_found_out(cluster: Cluster, servers: str) -> None:
    box = cluster.box
    victim = cluster.get("pod", "web-2", "-n", servers)["spec"]["nodeName"]
    box.cut(victim)
    try:
        cluster.wait_for(lambda: not cluster.ready(victim), f"{victim} NotReady")
        cluster.wait_for(lambda: "web-2" not in ready_endpoints(cluster, servers), "its pod out of the Service")
    finally:
        box.heal(victim)
    cluster.wait_for(lambda: cluster.ready(victim), f"{victim} Ready")
    cluster.wait_for(lambda: "web-2" in ready_endpoints(cluster, servers), "its pod in the Service")


def test_a_node_without_power_comes_back(cluster: Cluster, servers: str) -> None:
    box = cluster.box
    pod = cluster.get("pod", "web-0", "-n", servers)
    victim = pod["spec"]["nodeName"]
    before = cluster.execute("web-0", "cat", "/data/index.html", namespace=servers)
    box.kill(victim)
    try:
        with pytest.raises(OSError):
            fetch(pod["status"]["podIP"])
        cluster.wait_for(lambda: not cluster.ready(victim), f"{victim} NotReady")
    finally:
        box.start(victim)
    cluster.wait_for(lambda: "web-0" in ready_endpoints(cluster, servers), "its pod in the Service")
    assert cluster.execute("web-0", "cat", "/data/index.html", namespace=servers) == before + "web-0\n"


def ready_endpoints(cluster: Cluster, namespace: str) -> set[str]:
    slices = cluster.get("endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name=any")["items"]
    return {
        endpoint["targetRef"]["name"]
        for one in slices
        for endpoint in one.get("endpoints") or []
        if endpoint["conditions"]["ready"]
    }
