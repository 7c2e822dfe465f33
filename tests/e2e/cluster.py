"""The cluster that tests talk to: KUBECONFIG's, or the box. One object, so that tests need not know which.

Faults of nodes are the box's: on another cluster such a test is skipped, and says so. Images of another cluster come
from MAILARRAY_E2E_IMAGES (`registry/prefix`, tag `box`); the box builds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.e2e.box import Box, BoxError
from tests.e2e.box.machine import run

POLL = 0.2  # seconds between two looks
T = TypeVar("T")


class Cluster:
    """A Kubernetes cluster with three nodes in three zones and a default storage class."""

    def __init__(self, environment: dict[str, str], box: Box | None = None) -> None:
        self._environment = environment
        self.kubeconfig = Path(environment["KUBECONFIG"])
        self._box = box
        self.pull_policy = "Never" if box else "IfNotPresent"

    @property
    def box(self) -> Box:
        """The box, for faults; a test that asks for it is skipped on another cluster."""
        if self._box is None:
            pytest.skip("needs the cluster of this machine: run without KUBECONFIG")
        return self._box

    def environment(self) -> dict[str, str]:
        """Environment with which kubectl and helm find the cluster."""
        return dict(self._environment)

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Run kubectl; its standard output. A failure is a BoxError with what it said."""
        return self._run("kubectl", *arguments, stdin=stdin, seconds=seconds)

    def helm(self, *arguments: str, seconds: float = 180) -> str:
        """Run helm."""
        return self._run("helm", *arguments, seconds=seconds)

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *manifests: dict[str, Any], namespace: str = "default") -> None:
        """Apply manifests."""
        self.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def execute(self, pod: str, *command: str, namespace: str = "default", seconds: float = 60) -> str:
        """Run a command in a pod; its standard output."""
        return self.kubectl("exec", "-n", namespace, pod, "--", *command, seconds=seconds)

    def images(self, *roles: str) -> list[str]:
        """Names of the roles' images, which the nodes have then."""
        if self._box:
            return self._box.load(*roles)
        prefix = os.environ.get("MAILARRAY_E2E_IMAGES", "docker.io/mailarray")
        return [f"{prefix}/{role}:box" for role in roles]

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test") -> Iterator[str]:
        """A namespace of a test's own; it goes, with all that is in it, while the next test runs."""
        name = f"{prefix}-{uuid.uuid4().hex[:6]}"
        self.kubectl("create", "namespace", name)
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def wait_for(self, look: Callable[[], T | None], what: str, seconds: float = 60) -> T:
        """Look until there is something true, and return it; a BoxError when there is none in time."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise BoxError(f"not in {seconds:.0f} s: {what}")
            time.sleep(POLL)
        return found

    def ready(self, node: str) -> bool:
        """Whether a node is Ready."""
        conditions = self.get("node", node)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def dump(self) -> str:
        """What a person wants to see when a test failed."""
        parts = []
        for title, arguments in (
            ("nodes", ("get", "nodes", "-o", "wide")),
            ("pods", ("get", "pods", "-A", "-o", "wide")),
            ("claims", ("get", "pvc", "-A")),
            ("events", ("get", "events", "-A", "--sort-by=.lastTimestamp")),
        ):
            parts.append(f"== {title}\n{self._look(*arguments)}")
        for line in self._look("get", "pods", "-A", "--no-headers").splitlines():
            namespace, pod, *_ = line.split()
            logs = self._look("logs", "-n", namespace, pod, "--all-containers", "--prefix", "--tail=30")
            parts.append(f"== logs of {namespace}/{pod}\n{logs}")
        return "\n".join(parts)

    def _look(self, *arguments: str) -> str:
        try:
            return "\n".join(self.kubectl(*arguments, seconds=10).splitlines()[-60:])
        except Exception as error:
            return str(error)

    def _run(self, program: str, *arguments: str, stdin: str | None = None, seconds: float) -> str:
        environment = self.environment()
        found = shutil.which(program, path=environment.get("PATH", os.environ["PATH"]))
        if not found:
            raise BoxError(f"{program} is not in PATH: install it")
        return run(found, *arguments, stdin=stdin, env=environment, seconds=seconds)


@contextlib.contextmanager
def a_cluster() -> Iterator[Cluster]:
    """KUBECONFIG's cluster, or a running box, or a box for as long as the context lasts."""
    box = Box()
    named = os.environ.get("KUBECONFIG")
    if named and named != str(box.kubeconfig):  # `make box-shell` names the box
        yield Cluster({"KUBECONFIG": named})
        return
    was_running = box.running()
    box.up()
    try:
        yield Cluster(box.environment(), box)
    finally:
        if not was_running:
            box.down()
