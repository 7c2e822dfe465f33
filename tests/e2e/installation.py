"""Mailarray installed as its README says: the chart, the example, and mailboxes for the tests' traffic beside alice.

MX records are published through the box's ExternalDNS; their TTL and a server's sessions are test-sized.
"""

from __future__ import annotations

import base64
import contextlib
import json
import poplib
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from argon2 import PasswordHasher

from mailarray_operator.api import names
from tests.e2e.box.machine import run
from tests.e2e.cluster import Cluster
from tests.e2e.mail_array import DOMAIN, MailArray
from tests.e2e.traffic import MAILBOXES
from tests.support.array import PASSWORD

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "mailarray"
EXAMPLE = ROOT / "examples" / "cluster.yaml"
CRDS = ROOT / "crds"
PLUGIN = str(Path(sys.executable).parent / "kubectl-mailarray")
NAMESPACE, RELEASE, GROUP = "mail", "mailarray", "mail"
ALICE, ALICES_PASSWORD = f"alice@{DOMAIN}", "secret"  # as in the example
SESSIONS, TTL = 100, 10  # of one server; seconds of its MX records
CLIENT = "client"  # a pod inside of the cluster, with swaks and mpop
HASHER = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)  # tests log in often


@dataclass(frozen=True, slots=True)
class Installation:
    """The array, and how long its way to Ready took."""

    array: MailArray
    images: dict[str, str]  # by role
    seconds: float

    def helm(self, verb: str, *more: str) -> str:
        """helm install or upgrade, with the images of the work tree."""
        words = [verb, RELEASE, str(CHART), "-n", NAMESPACE]
        return self.array.cluster.helm(*words, *image_values(self.array.cluster, self.images), *more)

    def replicas(self) -> tuple[int, int]:
        """Of the StatefulSet and of the MailServer."""
        return self._count("statefulset"), self._count("mailserver")

    def pods(self) -> dict[str, str]:
        """The server pods that there are: uid by name. A restarted one has another uid."""
        listed = self.array.get("pods", "-l", f"{names.LABEL_GROUP}={GROUP}")["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in listed}

    def in_client(self, *command: str, seconds: float = 60) -> str:
        """Run a command in the client's pod."""
        return self.array.kubectl("exec", CLIENT, "--", *command, seconds=seconds)

    def message_of_alice(self, subject: str) -> str:
        """The text of her newest message with a subject; waits until it is there."""

        def look() -> str:
            host, port = self.array.any_pop3(random.Random(0))()
            client = poplib.POP3(host, port, timeout=10)
            try:
                client.user(ALICE)
                client.pass_(ALICES_PASSWORD)
                for number in range(client.stat()[0], 0, -1):
                    text = b"\n".join(client.retr(number)[1]).decode()
                    if f"Subject: {subject}\n" in text:
                        return text
                return ""
            finally:
                client.quit()

        return str(self.array.wait_for(look, f"a message {subject!r} for alice", 20))

    def plugin(self, *arguments: str) -> str:
        """kubectl mailarray, as a person types it."""
        return run(PLUGIN, "-n", NAMESPACE, *arguments, env=self.array.cluster.environment())

    def _count(self, kind: str) -> int:
        return int(self.array.get(kind, GROUP)["spec"]["replicas"])


def image_values(cluster: Cluster, images: dict[str, str]) -> list[str]:
    """--set flags that name images."""
    words = ["--set", f"images.pullPolicy={cluster.pull_policy}"]
    for role, image in images.items():
        repository, _, tag = image.rpartition(":")
        words += ["--set", f"images.{role}.repository={repository},images.{role}.tag={tag}"]
    return words


@contextlib.contextmanager
def install(cluster: Cluster) -> Iterator[Installation]:
    """From an empty cluster to a Ready MailCluster, and back."""
    roles = ("operator", "dataplane", "postgresql", "client")
    *rest, client = cluster.images(*roles)
    images = dict(zip(roles, rest, strict=False))
    remove(cluster)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    try:
        with MailArray(cluster, namespace=NAMESPACE) as array:
            began = time.monotonic()
            installation = Installation(array, images, 0.0)
            installation.helm("install", "--wait", "--timeout=2m")
            cluster.apply(*example(), namespace=NAMESPACE)
            add_mailboxes(array)
            array.wait_ready()
            seconds = time.monotonic() - began
            cluster.apply(_client(client, cluster.pull_policy), namespace=NAMESPACE)
            array.kubectl("wait", "--for=condition=Ready", f"pod/{CLIENT}", "--timeout=60s", seconds=70)
            yield Installation(array, images, seconds)
    finally:
        remove(cluster)


def example() -> list[dict[str, Any]]:
    """The example's resources, with limits and a TTL that a test can reach and wait out."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(EXAMPLE.read_text()))
    for document in documents:
        if document["kind"] == "MailCluster":
            document["spec"] |= {
                "smtp": {"maxConnections": SESSIONS, "maxConnectionsPerAddress": SESSIONS},
                "mx": {"ttl": f"{TTL}s"},
            }
    return documents


def add_mailboxes(array: MailArray) -> None:
    """The tests' mailboxes into the example's Secret, before the first pod mounts it."""
    secret = array.kubectl("get", "secret", "accounts", "-o", "jsonpath={.data.accounts}")
    lines = [f"{mailbox}:{HASHER.hash(PASSWORD)}" for mailbox in MAILBOXES]
    text = base64.b64decode(secret).decode().rstrip("\n") + "\n" + "\n".join(lines) + "\n"
    array.kubectl("patch", "secret", "accounts", "-p", json.dumps({"stringData": {"accounts": text}}))


def remove(cluster: Cluster) -> None:
    """Everything, the CRDs and the volumes included: what a person does who wants nothing back."""
    if "mailclusters" in cluster.kubectl("api-resources", "--api-group=mailarray.io", "-o", "name"):
        cluster.kubectl("delete", "mailclusters,mailservers,mirrorpairs", "--all", "-A", "--timeout=30s")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s", seconds=130)
    for kind in ("clusterrole", "clusterrolebinding"):
        cluster.kubectl("delete", kind, "-l", f"app.kubernetes.io/instance={RELEASE}")
    cluster.kubectl("delete", "-f", str(CRDS), "--ignore-not-found", "--timeout=30s")


def _client(image: str, pull_policy: str) -> dict[str, object]:
    container = {
        "name": "client",
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": ["sleep", "infinity"],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT},
        "spec": {"containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 0},
    }
