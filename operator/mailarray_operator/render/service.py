"""Services: DNS names for servers, ways in for senders and readers.

From outside, every server has a Service of its own, since every server is an MX target of its own; traffic policy Local
keeps the sender's address, which goes into Received: and into limits by address.
"""

from __future__ import annotations

from mailarray.contract.resources.common import Expose
from mailarray_operator.api import names
from mailarray_operator.render.context import Context, Manifest, ServerGroup
from mailarray_operator.render.metadata import metadata, owned_by_cluster, owned_by_group, selector


def headless(context: Context) -> Manifest:
    """Each server's DNS name, ready or not: a server that starts copies from others before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(context, names.headless_service(context.name), names.SERVER),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(context, names.SERVER),
            "ports": [
                _port("smtp", names.PORT_SMTP, names.PORT_SMTP),
                _port("writer", names.PORT_WRITER, names.PORT_WRITER),
                _port("sidecar", names.PORT_SIDECAR, names.PORT_SIDECAR),
            ],
        },
    }


def smtp(context: Context) -> Manifest:
    """Any ready server, for senders inside of Kubernetes. Belongs to nobody, as the servers behind it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(context, names.smtp_service(context.name), names.SERVER),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(context, names.SERVER),
            "ports": [_port("smtp", names.SERVICE_SMTP, names.PORT_SMTP)],
        },
    }


def servers(context: Context, group: ServerGroup) -> list[Manifest]:
    """One Service a server, when the group is exposed through Services; a HostPort needs none."""
    expose = group.spec.expose
    if expose.type not in ("NodePort", "LoadBalancer"):
        return []
    rendered = []
    for ordinal in range(group.replicas):
        server = names.server(group.name, ordinal)
        rendered.append(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata(
                    context,
                    server,
                    names.SERVER,
                    group=group,
                    owner=owned_by_group(group),
                    annotations=expose.annotations,
                ),
                "spec": {
                    **_outside(expose),
                    # A server whose one disk is broken has a container that cannot run, so its pod is not ready; its
                    # other volumes take mail all the same.
                    **({"publishNotReadyAddresses": True} if group.spec.storage.volumes > 1 else {}),
                    "selector": {names.LABEL_GROUP: group.name, names.LABEL_POD: server},
                    "ports": [_port("smtp", names.SERVICE_SMTP, names.PORT_SMTP)],
                },
            }
        )
    return rendered


def access(context: Context) -> Manifest:
    """The way in for readers."""
    expose = context.spec.access.expose
    ports = [_port("pop3", names.SERVICE_POP3, names.PORT_POP3)]
    if context.spec.tls is not None:
        ports.append(_port("pop3s", names.SERVICE_POP3S, names.PORT_POP3S))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(
            context,
            names.access(context.name),
            names.ACCESS,
            owner=owned_by_cluster(context),
            annotations=expose.annotations,
        ),
        "spec": {**_outside(expose), "selector": selector(context, names.ACCESS), "ports": ports},
    }


def database(context: Context) -> Manifest:
    """The catalog's database. An address that stays: names of pods are kept by resolvers after the pod has moved."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(context, names.database(context.name), names.DATABASE),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(context, names.DATABASE),
            "ports": [_port("postgresql", names.PORT_POSTGRESQL, names.PORT_POSTGRESQL)],
        },
    }


def _outside(expose: Expose) -> Manifest:
    if expose.type in ("NodePort", "LoadBalancer"):
        return {"type": expose.type, "externalTrafficPolicy": "Local"}
    return {"type": "ClusterIP"}


def _port(name: str, port: int, target: int) -> Manifest:
    return {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}
