"""MailServer: a group of equal servers, in Kubernetes one StatefulSet."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailarray.contract.resources.common import Expose, NameRef
from mailarray.contract.resources.reading import Free, Size


@dataclass(frozen=True, slots=True)
class ServerStorage:
    """spec.storage of a MailServer."""

    storage_class_name: str | None = None
    size: Size = 10 << 30
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    volumes: int = 1


@dataclass(frozen=True, slots=True)
class TemplateMetadata:
    """spec.template.metadata."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Template:
    """spec.template: what a person may set of the pods; handed on as it is written."""

    metadata: TemplateMetadata = field(default_factory=TemplateMetadata)
    resources: Free | None = None  # of the container smtp; the sidecar takes the same
    node_selector: Free | None = None
    tolerations: Free | None = None
    affinity: Free | None = None
    priority_class_name: str | None = None


@dataclass(frozen=True, slots=True)
class MailServerSpec:
    """spec of a MailServer."""

    cluster_ref: NameRef
    replicas: int = 1
    storage: ServerStorage = field(default_factory=ServerStorage)
    hostnames: str | None = None
    expose: Expose = field(default_factory=Expose)
    preference: int = 10
    template: Template = field(default_factory=Template)

    def hostname(self, group: str, ordinal: str, domain: str) -> str:
        """The name of a server in the outside world; `ordinal` may be the placeholder `{ordinal}` itself."""
        return (self.hostnames or f"{group}-{{ordinal}}.{domain}").replace("{ordinal}", ordinal)
