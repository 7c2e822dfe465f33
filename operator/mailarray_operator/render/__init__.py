"""Pure rendering: resources and decisions in, manifests out; one file a Kubernetes kind. Golden manifests test it.

Nothing here knows a clock, the environment or the API server, so equal inputs give equal manifests: an upgrade of the
operator restarts no pod unless what is rendered changed. Called by the applier, through the three functions below.
"""

from mailarray_operator.render.context import Context, Manifest, ServerGroup
from mailarray_operator.render.order import cluster_manifests, group_manifests, manifests

__all__ = ["Context", "Manifest", "ServerGroup", "cluster_manifests", "group_manifests", "manifests"]
