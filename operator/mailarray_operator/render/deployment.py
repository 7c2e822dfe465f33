"""The Deployment of access servers: they hold nothing, so Kubernetes itself may replace them."""

from __future__ import annotations

from mailarray_operator.api import names
from mailarray_operator.render import configmap, pod
from mailarray_operator.render.context import Context, Manifest
from mailarray_operator.render.metadata import labels, metadata, owned_by_cluster, selector

GRACE_SECONDS = 30  # sessions hear that they end, and expunge what was deleted
# Until every node knows that this server goes, its Service still sends readers to it; mail programs show a refused
# connection to their user, so the server goes on answering for that long.
LEAVE_SECONDS = 3


def access(context: Context) -> Manifest:
    """The Deployment; goes with its MailCluster."""
    wanted = context.spec.access
    # Two pods cannot have the same port of a node, so with HostPort the old one goes first.
    rolling = {"maxUnavailable": 1, "maxSurge": 0} if _on_host(context) else {"maxUnavailable": 0, "maxSurge": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(context, names.access(context.name), names.ACCESS, owner=owned_by_cluster(context)),
        "spec": {
            "replicas": wanted.replicas,
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "selector": {"matchLabels": selector(context, names.ACCESS)},
            "template": {"metadata": {"labels": labels(context, names.ACCESS)}, "spec": _pod(context)},
        },
    }


def _pod(context: Context) -> Manifest:
    settings = configmap.access_settings(context)["metadata"]["name"]
    secret_volumes, secret_mounts = pod.secrets(context, optional=False)
    volumes = [pod.scratch("tmp", "64Mi"), *pod.config(context, settings), *secret_volumes]
    mounts = [pod.mount("tmp", "/tmp"), *pod.config_mounts(), *secret_mounts]
    if context.spec.accounts.secret_ref is None:
        volumes.append(pod.scratch("snapshot", "4Gi"))  # several million accounts
        mounts.append(pod.mount("snapshot", names.PATH_SNAPSHOT))
    container = pod.process(
        context,
        names.CONTAINER_ACCESS,
        "access",
        f"{names.PATH_SETTINGS}/{names.FILE_ACCESS}",
        ports=_ports(context),
        probed=names.PORT_ACCESS,
        resources=context.spec.access.resources or pod.ACCESS_RESOURCES,
    )
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}}
    return {
        **pod.common(GRACE_SECONDS),
        **pod.spread(context, names.ACCESS),
        "containers": [{**container, "volumeMounts": mounts}],
        "volumes": volumes,
    }


def _ports(context: Context) -> list[Manifest]:
    on_host = _on_host(context)
    ports = [pod.port("pop3", names.PORT_POP3, names.SERVICE_POP3 if on_host else None)]
    if context.spec.tls is not None:
        ports.append(pod.port("pop3s", names.PORT_POP3S, names.SERVICE_POP3S if on_host else None))
    return [*ports, pod.port("internal", names.PORT_ACCESS)]


def _on_host(context: Context) -> bool:
    return context.spec.access.expose.type == "HostPort"
