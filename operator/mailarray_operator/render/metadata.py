"""metadata of every object: names come from `api/names.py`, labels and owners from here.

Who owns what. A group's objects belong to their MailServer, so that deleting it ends its servers (their volumes stay).
What is there for readers alone belongs to the MailCluster. What serving servers need belongs to nobody: a MailCluster
deleted by mistake must leave its servers serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailarray_operator.api import names
from mailarray_operator.render.context import Context, Manifest, ServerGroup


def labels(context: Context, component: str, group: ServerGroup | None = None) -> dict[str, str]:
    """Labels of an object of this cluster."""
    return {
        "app.kubernetes.io/name": "mailarray",
        "app.kubernetes.io/instance": context.name,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_CLUSTER: context.name,
        names.LABEL_COMPONENT: component,
        **({} if group is None else {names.LABEL_GROUP: group.name}),
    }


def selector(context: Context, component: str) -> dict[str, str]:
    """Labels that select all pods of a component."""
    return {names.LABEL_CLUSTER: context.name, names.LABEL_COMPONENT: component}


def metadata(
    context: Context,
    name: str,
    component: str,
    *,
    group: ServerGroup | None = None,
    owner: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """metadata of an object."""
    rendered: Manifest = {
        "name": name,
        "namespace": context.namespace,
        "labels": labels(context, component, group),
    }
    if annotations:
        rendered["annotations"] = dict(annotations)
    if owner is not None:
        rendered["ownerReferences"] = [dict(owner)]
    return rendered


def owned_by_cluster(context: Context) -> Manifest:
    """The owner of what goes when the MailCluster is deleted."""
    return _owner("MailCluster", context.name, context.uid)


def owned_by_group(group: ServerGroup) -> Manifest:
    """The owner of what goes when the MailServer is deleted."""
    return _owner("MailServer", group.name, group.uid)


def _owner(kind: str, name: str, uid: str) -> Manifest:
    # Without blockOwnerDeletion: it would ask for the right to change finalizers, and nothing is won by waiting.
    return {"apiVersion": names.API_VERSION, "kind": kind, "name": name, "uid": uid, "controller": True}
