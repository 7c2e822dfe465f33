"""The StatefulSet of a MailServer: a group of equal servers, each with a volume of its own.

Invariants: what the API server does not let change (selector, serviceName, volume claim template) is rendered as it
was first created, and a template changes only when its servers have to restart. Nothing that changes with time, with
other groups or with the mirroring table is in it. `OnDelete`: the operator restarts one server at a time.
"""

from __future__ import annotations

from typing import Any

from mailarray_operator.api import names
from mailarray_operator.render import configmap, pod
from mailarray_operator.render.claim import claim
from mailarray_operator.render.context import Context, Manifest, ServerGroup
from mailarray_operator.render.metadata import labels, metadata, owned_by_group, selector

# SIGTERM: sessions have 5 s to hear their last reply, the last batch reaches disks and mirrors, segments are sealed,
# and the sidecar registers what is left (5 s). The rest is for slow disks. A server that is killed loses nothing;
# its mirrors seal for it. There is no preStop: a server says at once that it goes, takes no mail that others could
# take, and a sender that is refused tries the next MX.
GRACE_SECONDS = 60


def servers(context: Context, group: ServerGroup) -> Manifest:
    """The StatefulSet."""
    annotations = {names.ANNOTATION_REPLICAS: str(group.replicas)}
    if group.drain:
        annotations[names.ANNOTATION_DRAIN] = group.drain
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(
            context, group.name, names.SERVER, group=group, owner=owned_by_group(group), annotations=annotations
        ),
        "spec": {
            "replicas": group.replicas,
            "serviceName": names.headless_service(context.name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "revisionHistoryLimit": 3,  # with hundreds of groups, old revisions are most of what etcd would hold
            "selector": {"matchLabels": {names.LABEL_GROUP: group.name}},
            "template": _template(context, group),
            "volumeClaimTemplates": [_claim(context, group)],
        },
    }


def _template(context: Context, group: ServerGroup) -> Manifest:
    wanted = group.spec.template
    settings = configmap.server_settings(context, group)["metadata"]["name"]
    secret_volumes, secret_mounts = pod.secrets(context, optional=True)
    mounts = [
        pod.mount(names.VOLUME_CLAIM, names.PATH_VOLUME),
        pod.mount("run", names.PATH_RUN),
        pod.mount("tmp", "/tmp"),
        *pod.config_mounts(),
        *secret_mounts,
    ]
    spread = pod.spread(context, names.SERVER)
    spec: Manifest = {
        **pod.common(GRACE_SECONDS),
        **spread,
        "containers": [{**c, "volumeMounts": mounts} for c in _containers(context, group)],
        "volumes": [
            pod.scratch("run", "16Mi", memory=True),
            pod.scratch("tmp", "64Mi"),
            *pod.config(context, settings),
            *secret_volumes,
        ],
    }
    if wanted.affinity:
        spec["affinity"] = {**spread["affinity"], **_mapping(wanted.affinity)}
    for key, value in (
        ("nodeSelector", wanted.node_selector),
        ("tolerations", wanted.tolerations),
        ("priorityClassName", wanted.priority_class_name),
    ):
        if value:
            spec[key] = value
    return {
        "metadata": {
            "labels": {**wanted.metadata.labels, **labels(context, names.SERVER, group)},
            "annotations": {
                "kubectl.kubernetes.io/default-container": names.CONTAINER_SMTP,
                **wanted.metadata.annotations,
            },
        },
        "spec": spec,
    }


def _containers(context: Context, group: ServerGroup) -> list[Manifest]:
    path = f"{names.PATH_SETTINGS}/{names.FILE_SERVER}"
    host_port = names.SERVICE_SMTP if group.spec.expose.type == "HostPort" else None
    wanted = group.spec.template.resources
    return [
        pod.process(
            context,
            names.CONTAINER_SMTP,
            "smtp",
            path,
            ports=[pod.port("smtp", names.PORT_SMTP, host_port), pod.port("writer", names.PORT_WRITER)],
            probed=names.PORT_WRITER,
            resources=wanted or pod.SMTP_RESOURCES,
        ),
        pod.process(
            context,
            names.CONTAINER_CATALOG,
            "sidecar",
            path,
            ports=[pod.port("sidecar", names.PORT_SIDECAR)],
            probed=names.PORT_SIDECAR,
            resources=wanted or pod.CATALOG_RESOURCES,
        ),
    ]


def _claim(context: Context, group: ServerGroup) -> Manifest:
    storage = group.spec.storage
    return claim(
        names.VOLUME_CLAIM,
        {**selector(context, names.SERVER), names.LABEL_GROUP: group.name},
        size=group.claim_size or storage.size,
        storage_class=storage.storage_class_name,
        access_modes=storage.access_modes,
    )


def _mapping(free: Any) -> Manifest:  # the CRD has already refused what is no mapping
    return dict(free)
