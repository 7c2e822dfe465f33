"""Local volumes: folders of the nodes' disks, offered as PersistentVolumes and used again.

There is no provisioner for local volumes in Kubernetes, so each node offers a stock of them, and `keep` restocks: a
volume whose claim was deleted (phase Released) is removed, and another with a new, empty folder takes its place. The
folder is new rather than wiped, since kubelet may not be done with the old one. The capacity is a number that any claim
fits; the folder is as large as the disk.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import ssl
import time
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.box import addons
from tests.e2e.box.node import HOME

PER_NODE = 8
CAPACITY = "100Gi"
INTERVAL = 1.0  # seconds between two looks
_LABEL = "mailarray.io/box-node"
_ANNOTATION = "mailarray.io/box-folder"


def manifest(
    node: str, folder: str, *, storage_class: str = addons.STORAGE_CLASS, capacity: str = CAPACITY
) -> addons.Manifest:
    """One volume of a node; `folder` is the last part of its path."""
    hosts = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"{node}-{folder}",
            "labels": {_LABEL: node},
            "annotations": {_ANNOTATION: folder},
        },
        "spec": {
            "capacity": {"storage": capacity},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": storage_class,
            "local": {"path": f"{HOME}/volumes/{folder}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": hosts}]}},
        },
    }


class Stock:
    """All local volumes of a box; `folders` are the nodes' folders in the cache, by node."""

    def __init__(self, kubeconfig: Path, folders: dict[str, Path]) -> None:
        self._folders = folders
        settings = yaml.safe_load(kubeconfig.read_text())
        self._url = settings["clusters"][0]["cluster"]["server"] + "/api/v1/persistentvolumes"
        self._token = settings["users"][0]["user"]["token"]
        self._context = ssl.create_default_context(cafile=str(kubeconfig.parent / "ca.crt"))

    def restock(self) -> None:
        """One look: remove released volumes, and fill up to PER_NODE for each node."""
        have = dict.fromkeys(self._folders, 0)
        for volume in self._call("GET", "")["items"]:
            node = volume["metadata"].get("labels", {}).get(_LABEL)
            if node not in have or volume["spec"]["storageClassName"] != addons.STORAGE_CLASS:
                continue
            if volume["status"].get("phase") == "Released":
                self._call("DELETE", "/" + volume["metadata"]["name"])
                folder = self._folders[node] / "volumes" / volume["metadata"]["annotations"][_ANNOTATION]
                shutil.rmtree(folder, ignore_errors=True)
            else:
                have[node] += 1
        for node, count in have.items():
            for _ in range(count, PER_NODE):
                folder_name = uuid.uuid4().hex[:8]
                path = self._folders[node] / "volumes" / folder_name
                path.mkdir(parents=True)
                path.chmod(0o777)
                self._call("POST", "", manifest(node, folder_name))

    def keep(self) -> None:
        """Restock for ever."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the API server is away for a moment
                self.restock()
            time.sleep(INTERVAL)

    def _call(self, method: str, path: str, body: addons.Manifest | None = None) -> Any:
        data = json.dumps(body).encode() if body else None
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10, context=self._context) as response:
            return json.load(response)


def main(arguments: Sequence[str]) -> None:
    """`volumes KUBECONFIG NODE=FOLDER …`: keep the stock."""
    kubeconfig, *pairs = arguments
    Stock(Path(kubeconfig), {node: Path(folder) for node, folder in (pair.split("=", 1) for pair in pairs)}).keep()
