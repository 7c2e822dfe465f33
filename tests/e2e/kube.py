"""The cluster as tests see it: kubectl for what a person would type, pykube for what is read often.

Works with any cluster that KUBECONFIG names; knows nothing of the box.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pykube
import yaml

Manifest = dict[str, Any]


class KubeError(Exception):
    """A command failed; the text is what it said."""


class Kube:
    """kubectl, helm and a client of one cluster."""

    def __init__(self, kubeconfig: Path, environment: Mapping[str, str]) -> None:
        self.kubeconfig = kubeconfig
        self._environment = dict(environment)
        self.api = pykube.HTTPClient(pykube.KubeConfig.from_file(str(kubeconfig)), timeout=15)

    def run(self, *command: str, stdin: str | bytes | None = None, seconds: float = 120) -> str:
        """A program with the cluster's environment; answers its output. Raises KubeError."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, timeout=seconds, env=self._environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise KubeError(f"{' '.join(command)}: no end after {seconds:.0f} s") from error
        if done.returncode:
            raise KubeError(f"{' '.join(command)}: {(done.stderr or done.stdout).decode().strip()}")
        return done.stdout.decode()

    def kubectl(self, *arguments: str, stdin: str | bytes | None = None, seconds: float = 120) -> str:
        """kubectl."""
        return self.run("kubectl", *arguments, stdin=stdin, seconds=seconds)

    def helm(self, *arguments: str, seconds: float = 180) -> str:
        """helm."""
        return self.run("helm", *arguments, seconds=seconds)

    def apply(self, *manifests: Manifest) -> None:
        """As a user applies a file. Raises KubeError with the API server's sentence."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str, namespace: str) -> Manifest:
        """One object. Raises KubeError."""
        result: Manifest = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return result

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        """Objects of a kind."""
        words = ["get", kind, "-n", namespace, "-o", "json", *(["-l", selector] if selector else [])]
        return list(json.loads(self.kubectl(*words))["items"])

    def pods(self, namespace: str, selector: str) -> list[Manifest]:
        """Pods, by a client that costs no process: it is asked every half second."""
        query = pykube.Pod.objects(self.api, namespace=namespace).filter(selector=selector)
        return [pod.obj for pod in query]


def wait_for(look: Callable[[], Any], seconds: float, what: str, *, every: float = 0.25) -> Any:
    """Until `look` answers something true, which is returned; a failing command counts as not yet."""
    end = time.monotonic() + seconds
    last = ""
    while True:
        try:
            if found := look():
                return found
        except (KubeError, OSError) as error:
            last = f" ({error})"
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}{last}")
        time.sleep(every)


def condition(resource: Manifest, kind: str) -> Manifest:
    """A condition of a resource; empty when it has none of that type."""
    found = resource.get("status", {}).get("conditions", [])
    return next((dict(c) for c in found if c["type"] == kind), {})
