"""The API server without nodes: for tests that fake what kubelets report."""

from __future__ import annotations

import json

from tests.e2e.cluster import Cluster


def test_controllers_run_and_a_pod_can_be_faked_ready(control_plane: Cluster) -> None:
    pod = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    control_plane.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "made-up"}},
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "x"},
            "spec": {"serviceName": "x", "selector": {"matchLabels": {"app": "x"}}, "template": pod},
        },
    )
    control_plane.wait_for(lambda: control_plane.get("pods", "-l", "app=x")["items"], "the StatefulSet's pod")
    ready = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    control_plane.kubectl("patch", "pod", "x-0", "--subresource=status", "-p", json.dumps(ready))
    control_plane.wait_for(
        lambda: control_plane.get("statefulset", "x")["status"].get("readyReplicas") == 1, "a ready replica"
    )
