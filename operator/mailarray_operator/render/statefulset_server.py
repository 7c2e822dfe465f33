"""The StatefulSet of a MailServer: a group of equal servers, each with a volume of its own, or with several.

Each volume has a writer and a sidecar: the containers `smtp` and `catalog`, and for further volumes `smtp-1`,
`catalog-1`, ... in the same pod, which listen on the same SMTP port. Each mounts its own volume and no other.

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
            "volumeClaimTemplates": [_claim(context, group, number) for number in range(group.spec.storage.volumes)],
        },
    }


def _template(context: Context, group: ServerGroup) -> Manifest:
    wanted = group.spec.template
    settings = configmap.server_settings(context, group)["metadata"]["name"]
    secret_volumes, secret_mounts = pod.secrets(context, optional=True)
    mounts = [
        pod.mount("run", names.PATH_RUN),
        pod.mount("tmp", "/tmp"),
        *pod.config_mounts(),
        *secret_mounts,
    ]
    spread = pod.spread(context, names.SERVER)
    spec: Manifest = {
        **pod.common(GRACE_SECONDS),
        **spread,
        "containers": [
            {**container, "volumeMounts": [_volume_mount(number), *mounts]}
            for number in range(group.spec.storage.volumes)
            for container in _containers(context, group, number)
        ],
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


def _volume_mount(number: int) -> Manifest:
    return pod.mount(names.numbered(names.VOLUME_CLAIM, number), names.numbered(names.PATH_VOLUME, number))


def _containers(context: Context, group: ServerGroup, number: int) -> list[Manifest]:
    path = f"{names.PATH_SETTINGS}/{configmap.file_of(number)}"
    host_port = names.SERVICE_SMTP if group.spec.expose.type == "HostPort" else None
    writer, sidecar = names.writer_port(number), names.sidecar_port(number)
    shared = [] if number else [pod.port("smtp", names.PORT_SMTP, host_port)]  # a pod names a port once
    wanted = group.spec.template.resources
    # Of one broken disk among several the status says why: by the last words of its processes.
    last_words = {"terminationMessagePolicy": "FallbackToLogsOnError"} if group.spec.storage.volumes > 1 else {}
    processes = [
        pod.process(
            context,
            names.numbered(names.CONTAINER_SMTP, number),
            "smtp",
            path,
            ports=[*shared, pod.port(names.numbered("writer", number), writer)],
            probed=writer,
            resources=wanted or pod.SMTP_RESOURCES,
        ),
        pod.process(
            context,
            names.numbered(names.CONTAINER_CATALOG, number),
            "sidecar",
            path,
            ports=[pod.port(names.numbered("sidecar", number), sidecar)],
            probed=sidecar,
            resources=wanted or pod.CATALOG_RESOURCES,
        ),
    ]
    return [{**process, **last_words} for process in processes]


def _claim(context: Context, group: ServerGroup, number: int) -> Manifest:
    storage = group.spec.storage
    return claim(
        names.numbered(names.VOLUME_CLAIM, number),
        {**selector(context, names.SERVER), names.LABEL_GROUP: group.name},
        size=group.claim_size or storage.size,
        storage_class=storage.storage_class_name,
        access_modes=storage.access_modes,
    )


def _mapping(free: Any) -> Manifest:  # the CRD has already refused what is no mapping
    return dict(free)
