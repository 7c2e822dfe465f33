"""What all kinds share: the envelope of a document, references, how something is exposed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mailarray.contract.resources.reading import Document, Free, Reader, ResourceError

API_VERSION = "mailarray.io/v1alpha1"

ExposeType = Literal["ClusterIP", "NodePort", "LoadBalancer", "HostPort"]


@dataclass(frozen=True, slots=True)
class NameRef:
    """A reference by name, in the same namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A key of a Secret."""

    name: str
    key: str = "url"


@dataclass(frozen=True, slots=True)
class Expose:
    """How something is reached from outside of the cluster."""

    type: ExposeType = "ClusterIP"
    annotations: dict[str, str] = field(default_factory=dict)  # of the Services, for cloud load balancers


@dataclass(frozen=True, slots=True)
class Metadata:
    """metadata, as far as a person writes it."""

    name: str
    namespace: str = "default"
    annotations: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A whole document."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: Free
    status: Free | None = None


def read_envelope(document: Document) -> Envelope:
    """The envelope of a document that a person wrote. Raises ResourceError."""
    return _EnvelopeReader(document).read(Envelope, document.content, "document")


class _EnvelopeReader(Reader):
    """Paths as a person sees them, without the word document in front."""

    def fail(self, path: str, text: str) -> ResourceError:
        return Reader.fail(self, path.removeprefix("document."), text)
