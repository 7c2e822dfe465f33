"""What the pod templates have in common: security, probes, volumes, spreading.

All pods fit the restricted pod standard (a HostPort apart, which the user asks for), with a read-only root.
"""

from __future__ import annotations

from typing import Any

from mailarray.contract import paths
from mailarray_operator.api import names
from mailarray_operator.render.context import Context, Manifest
from mailarray_operator.render.metadata import selector

USER = 10001  # user and group of all images; volumes belong to the group
SECRET_MODE = 0o440  # of mounted Secrets: root and our group read them

# A start scans the volume, which takes minutes for terabytes; killing it would only make it begin anew.
STARTUP_SECONDS = 3600
READY_PERIOD, READY_FAILURES = 2, 2  # seconds: not ready after 4; a probe that waits 1 s for a busy process passes
# A restart costs open segments and sessions, so only a process that said nothing for a minute is ended.
ALIVE_PERIOD, ALIVE_FAILURES, ALIVE_TIMEOUT = 10, 6, 5  # seconds

# What is asked for when the user says nothing: enough to start and to idle. No limits: a limit on memory ends a
# server at its busiest, and its own limits (`spec.smtp`) answer 451 before that.
SMTP_RESOURCES: Manifest = {"requests": {"cpu": "100m", "memory": "128Mi"}}
CATALOG_RESOURCES: Manifest = {"requests": {"cpu": "50m", "memory": "128Mi"}}
ACCESS_RESOURCES: Manifest = {"requests": {"cpu": "50m", "memory": "96Mi"}}
DATABASE_RESOURCES: Manifest = {"requests": {"cpu": "100m", "memory": "256Mi"}}


def security() -> Manifest:
    """securityContext of a pod. Owners are changed on a new volume only, not in each file at each start."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """securityContext of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def process(
    context: Context, name: str, role: str, settings_path: str, *, ports: list[Manifest], probed: int, resources: Any
) -> Manifest:
    """A container that runs one `mailarray run ROLE`, with probes on its internal port; mounts are added later."""
    return {
        "name": name,
        "image": context.configuration.dataplane_image,
        "imagePullPolicy": context.configuration.image_pull_policy,
        "args": ["run", role, settings_path, "--name", "$(POD_NAME)"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        "ports": ports,
        "startupProbe": {
            "httpGet": _get(paths.HEALTH, probed),
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": STARTUP_SECONDS,
        },
        "readinessProbe": {
            "httpGet": _get(paths.READY, probed),
            "periodSeconds": READY_PERIOD,
            "timeoutSeconds": 2,
            "failureThreshold": READY_FAILURES,
        },
        "livenessProbe": {
            "httpGet": _get(paths.HEALTH, probed),
            "periodSeconds": ALIVE_PERIOD,
            "timeoutSeconds": ALIVE_TIMEOUT,
            "failureThreshold": ALIVE_FAILURES,
        },
        "resources": resources,
        "securityContext": container_security(),
    }


def _get(path: str, port: int) -> Manifest:
    return {"path": path, "port": port, "scheme": "HTTP"}


def port(name: str, number: int, host_port: int | None = None) -> Manifest:
    """A port of a container."""
    rendered: Manifest = {"name": name, "containerPort": number, "protocol": "TCP"}
    if host_port is not None:
        rendered["hostPort"] = host_port
    return rendered


def mount(name: str, path: str, *, read_only: bool = False) -> Manifest:
    """A volumeMount."""
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def config(context: Context, settings_name: str) -> list[Manifest]:
    """Volumes that servers and access servers read: settings, table, token, the catalog's URL.

    The URL may be missing: mail is taken and read without the catalog, and the file is looked at again.
    """
    reference = context.spec.catalog.database_secret_ref
    name, key = (names.database(context.name), names.KEY_URL) if reference is None else (reference.name, reference.key)
    return [
        {"name": "settings", "configMap": {"name": settings_name, "defaultMode": SECRET_MODE}},
        {"name": "table", "configMap": {"name": names.mirroring_table(context.name), "defaultMode": SECRET_MODE}},
        {"name": "internal", "secret": {"secretName": names.internal_secret(context.name), "defaultMode": SECRET_MODE}},
        {
            "name": "catalog",
            "secret": {
                "secretName": name,
                "items": [{"key": key, "path": names.KEY_URL}],
                "defaultMode": SECRET_MODE,
                "optional": True,
            },
        },
    ]


def config_mounts() -> list[Manifest]:
    """Where a container finds what `config` gives."""
    return [
        mount("settings", names.PATH_SETTINGS, read_only=True),
        mount("table", names.PATH_TABLE, read_only=True),
        mount("internal", names.PATH_INTERNAL, read_only=True),
        mount("catalog", names.PATH_CATALOG, read_only=True),
    ]


def secrets(context: Context, *, optional: bool) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of what users give: accounts and certificate. Whole directories, so that they follow changes.

    Optional on a server, whose sidecar has mail to serve even when its smtp process cannot start without them; an
    access server would have nothing to do, and waits.
    """
    volumes, mounts = [], []
    given = [
        ("accounts", context.spec.accounts.secret_ref, names.PATH_ACCOUNTS),
        ("tls", None if context.spec.tls is None else context.spec.tls.secret_ref, names.PATH_TLS),
    ]
    for name, reference, path in given:
        if reference is not None:
            secret = {
                "secretName": reference.name,
                "defaultMode": SECRET_MODE,
                **({"optional": True} if optional else {}),
            }
            volumes.append({"name": name, "secret": secret})
            mounts.append(mount(name, path, read_only=True))
    return volumes, mounts


def scratch(name: str, size: str, *, memory: bool = False) -> Manifest:
    """An emptyDir, bounded so that nothing can fill the node."""
    return {"name": name, "emptyDir": {**({"medium": "Memory"} if memory else {}), "sizeLimit": size}}


def spread(context: Context, component: str) -> Manifest:
    """Over zones and nodes as far as that goes, over all groups of a cluster.

    Never a condition: a server that cannot be scheduled serves nothing, and five servers on three nodes are a good
    cluster. Mail is safe all the same, since the mirroring table knows zones and nodes, and pairs servers that differ.
    """
    chosen = {"matchLabels": selector(context, component)}
    return {
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": chosen}
            for key in (names.LABEL_ZONE, "kubernetes.io/hostname")
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {"labelSelector": chosen, "topologyKey": "kubernetes.io/hostname"},
                    }
                ]
            }
        },
    }


def common(grace_seconds: int) -> Manifest:
    """What every pod's spec begins with: no access to the API server, no environment from Services."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": security(),
    }
