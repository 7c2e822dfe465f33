"""MailCluster and MailServer, as a person writes them, for the array on one machine.

The same documents that a Kubernetes cluster takes. What has no meaning on one machine (where pods run, DNS) is read
and named in a note; what one machine cannot do and a person would miss (a database of its own) is refused with a
sentence. Called by `up.py`; pure: text in, resources out.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from mailarray.contract.resources.common import API_VERSION, Metadata, read_envelope
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray.contract.resources.reading import Document, Reader, ResourceError
from mailarray.contract.server_names import volume_name
from mailarray.directory.addresses import canonical_domain, split
from mailarray.local.documents import read_documents

PORTS_ANNOTATION = "mailarray.io/local-ports"
RESTART_ANNOTATION = "mailarray.io/local-max-restart-delay"  # a duration; tests that kill processes want it short
SURPLUS_ANNOTATION = "mailarray.io/local-surplus-after"  # a duration; tests of copies too many want it short
MAX_VOLUMES = 10  # of all servers: two processes each, and internal ports are given out in tens
ZONES_ANNOTATION = "mailarray.io/local-zones"  # names; servers take turns in them, for a look at what a lost zone does
MIN_MESSAGE_SIZE = 65536  # bytes; RFC 5321 4.5.3.1.7 asks for at least 64 KiB
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")  # as Kubernetes' own; they become folder and process names
_DOMAIN = re.compile(r"(?!-)[^\s@:,/]{1,63}(\.[^\s@:,/]{1,63})*")
_HOSTNAME = re.compile(
    r"(?=.{1,255}$)[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*"
)


_NOT_HERE = frozenset(  # fields that have no meaning on one machine: read, and named in a note
    {
        "spec.storage.spread", "spec.access.replicas", "spec.access.expose", "spec.access.resources",
        "spec.catalog.storage", "spec.mx", "spec.paused", "spec.storage.storageClassName", "spec.storage.size",
        "spec.storage.accessModes", "spec.expose", "spec.preference", "spec.template",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports on loopback; from the annotation `mailarray.io/local-ports` of the MailCluster."""

    smtp: int = 2525  # of the first server; each further server has the next one
    pop3: int = 2110
    status: int = 2180  # page, JSON and metrics
    internal: int = 2200  # first of 40: writers +10, sidecars +20 (at most ten volumes), access +30


@dataclass(frozen=True, slots=True)
class ServerGroup:
    """A MailServer: `replicas` equal servers."""

    name: str
    spec: MailServerSpec


@dataclass(frozen=True, slots=True)
class Resources:
    """All that a file says."""

    cluster: str
    spec: MailClusterSpec
    ports: Ports
    groups: tuple[ServerGroup, ...]
    notes: tuple[str, ...]  # what was read and is not used on one machine
    max_restart_delay: float | None = None  # seconds; None: the supervisor's own
    surplus_after: float | None = None  # seconds until a copy too many is given back; None: as in a cluster
    zones: tuple[str, ...] = ()  # pretended; the servers take turns in them

    @property
    def server_names(self) -> tuple[str, ...]:
        """Every server, `<group>-<ordinal>`, in the order of their ports."""
        return tuple(f"{g.name}-{i}" for g in self.groups for i in range(g.spec.replicas))

    @property
    def volume_names(self) -> tuple[str, ...]:
        """Every volume, server by server; the first has its server's name."""
        return tuple(
            volume_name(f"{g.name}-{i}", number)
            for g in self.groups
            for i in range(g.spec.replicas)
            for number in range(g.spec.storage.volumes)
        )


def read_resources(text: str, file: str) -> Resources:
    """Read a file's documents. Raises ResourceError with one sentence."""
    clusters: list[tuple[Reader, Metadata, MailClusterSpec]] = []
    groups: list[tuple[Reader, ServerGroup]] = []
    readers: list[Reader] = []
    for document in read_documents(text, file):
        reader = Reader(document)
        kind, metadata, spec = _envelope(reader, document)
        readers.append(reader)
        if kind == "MailCluster":
            clusters.append((reader, metadata, reader.read(MailClusterSpec, spec, "spec")))
        else:
            groups.append((reader, ServerGroup(metadata.name, reader.read(MailServerSpec, spec, "spec"))))
    if len(clusters) != 1:
        found = "none" if not clusters else str(len(clusters))
        raise ResourceError(f"{file}: one MailCluster is needed, {found} found; one machine runs one cluster")
    reader, metadata, cluster = clusters[0]
    _check_cluster(reader, cluster)
    ports = _ports(reader, metadata.annotations.get(PORTS_ANNOTATION, ""))
    _check_groups(file, metadata.name, groups)
    _check_placement(reader, cluster, [group.name for _, group in groups])
    delay, surplus_after = (_duration(reader, metadata, name) for name in (RESTART_ANNOTATION, SURPLUS_ANNOTATION))
    zones = tuple(filter(None, metadata.annotations.get(ZONES_ANNOTATION, "").replace(",", " ").split()))
    resources = Resources(
        metadata.name, cluster, ports, tuple(g for _, g in groups), _notes(readers), delay, surplus_after, zones
    )
    servers = len(resources.server_names)
    volumes = len(resources.volume_names)
    if volumes > MAX_VOLUMES:
        few = f"{volumes} servers are" if volumes == servers else f"{volumes} volumes of {servers} servers are"
        lower = "spec.replicas" if volumes == servers else "spec.replicas or spec.storage.volumes"
        raise ResourceError(f"{file}: {few} more than the {MAX_VOLUMES} of one machine; lower {lower}")
    if cluster.storage.copies > servers:
        raise reader.fail(
            "spec.storage.copies",
            f"is {cluster.storage.copies}, but there are only {servers} servers; "
            "lower it, or raise spec.replicas of a MailServer",
        )
    return resources


def _duration(reader: Reader, metadata: Metadata, annotation: str) -> float | None:
    written = metadata.annotations.get(annotation)
    return None if written is None else reader.read_duration(written, f"metadata.annotations[{annotation}]")


def _envelope(reader: Reader, document: Document) -> tuple[str, Metadata, object]:
    content = document.content
    version, kind = content.get("apiVersion"), content.get("kind")
    if version != API_VERSION:
        raise reader.fail("apiVersion", f"is {version!r}; write {API_VERSION}")
    if kind == "MirrorPair":
        raise reader.fail("kind", "MirrorPair is not read on one machine; remove the document, a ring is used")
    if kind not in ("MailCluster", "MailServer"):
        raise reader.fail("kind", f"is {kind!r}; write MailCluster or MailServer")
    envelope = read_envelope(document)
    if not _NAME.fullmatch(envelope.metadata.name):
        raise reader.fail("metadata.name", "must be lower-case letters, digits and hyphens, at most 52 characters")
    return kind, envelope.metadata, envelope.spec


def _check_cluster(reader: Reader, spec: MailClusterSpec) -> None:
    if not spec.domains:
        raise reader.fail("spec.domains", "is empty; name at least one domain, for example - name: mail.example")
    known = [canonical_domain(d.name) for d in spec.domains]
    for i, domain in enumerate(spec.domains):
        if not _DOMAIN.fullmatch(domain.name):
            raise reader.fail(f"spec.domains[{i}].name", f"is {domain.name!r}; write a domain like mail.example")
        if known[i] in known[:i]:
            raise reader.fail(f"spec.domains[{i}].name", f"{domain.name} is there twice; remove one")
        if domain.postmaster is not None and split(domain.postmaster)[1] not in known:
            raise reader.fail(
                f"spec.domains[{i}].postmaster",
                f"is {domain.postmaster!r}; write a mailbox in one of the cluster's domains",
            )
    if spec.accounts.database is not None and spec.accounts.secret_ref is not None:
        raise reader.fail("spec.accounts", "has a secretRef and a database; leave one of them out")
    if spec.catalog.database_secret_ref is not None:
        raise reader.fail(
            "spec.catalog.databaseSecretRef", "is not read on one machine; remove it, the catalog is kept in SQLite"
        )
    if spec.storage.copies < 1:
        raise reader.fail("spec.storage.copies", "must be at least 1")
    if spec.smtp.max_message_size < MIN_MESSAGE_SIZE:
        raise reader.fail("spec.smtp.maxMessageSize", "must be at least 64Ki (RFC 5321 4.5.3.1.7)")
    if spec.smtp.max_recipients < 100:
        raise reader.fail("spec.smtp.maxRecipients", "must be at least 100 (RFC 5321 4.5.3.1.8)")
    for name, value in (
        ("smtp.maxConnections", spec.smtp.max_connections),
        ("smtp.maxConnectionsPerAddress", spec.smtp.max_connections_per_address),
        ("smtp.maxErrors", spec.smtp.max_errors),
        ("smtp.maxCommandsWithoutMail", spec.smtp.max_commands_without_mail),
        ("smtp.maxReceivedHeaders", spec.smtp.max_received_headers),
        ("access.pop3.maxConnections", spec.access.pop3.max_connections),
        ("access.pop3.maxConnectionsPerAddress", spec.access.pop3.max_connections_per_address),
    ):
        if value < 1:
            raise reader.fail(f"spec.{name}", "must be at least 1")
    if not 1 <= spec.smtp.soft_limit_percent <= 100:
        raise reader.fail("spec.smtp.softLimitPercent", "must be from 1 to 100")
    if not 10 <= spec.storage.compact_percent <= 100:
        raise reader.fail("spec.storage.compactPercent", "must be from 10 to 100")
    if spec.smtp.max_command_line < 512:
        raise reader.fail("spec.smtp.maxCommandLine", "must be at least 512 (RFC 5321 4.5.3.1.4)")
    for i, network in enumerate(spec.smtp.proxy_protocol.trusted_networks):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise reader.fail(
                f"spec.smtp.proxyProtocol.trustedNetworks[{i}]", f"is {network!r}; write a network like 10.0.0.0/8"
            ) from None
    if spec.access.hostname is not None:
        _check_hostname(reader, "spec.access.hostname", spec.access.hostname)


def _check_groups(file: str, cluster: str, groups: list[tuple[Reader, ServerGroup]]) -> None:
    if not groups:
        raise ResourceError(f"{file}: there is no MailServer; add one with spec.clusterRef.name: {cluster}")
    names: set[str] = set()
    for reader, group in groups:
        if group.name in names:
            raise reader.fail("metadata.name", f"{group.name} is there twice; rename one")
        names.add(group.name)
        if group.spec.cluster_ref.name != cluster:
            raise reader.fail(
                "spec.clusterRef.name", f"is {group.spec.cluster_ref.name!r}; the MailCluster is {cluster!r}"
            )
        if group.spec.replicas < 1:
            raise reader.fail("spec.replicas", "must be at least 1")
        if group.spec.storage.volumes < 1:
            raise reader.fail("spec.storage.volumes", "must be at least 1")
        if group.spec.hostnames is not None:
            pattern = group.spec.hostnames
            if group.spec.replicas > 1 and "{ordinal}" not in pattern:
                raise reader.fail("spec.hostnames", f"needs {{ordinal}} in it, there are {group.spec.replicas} servers")
            _check_hostname(reader, "spec.hostnames", pattern.replace("{ordinal}", "0"))


def _check_placement(reader: Reader, spec: MailClusterSpec, groups: list[str]) -> None:
    names: set[str] = set()
    for i, rule in enumerate(spec.placement.rules):
        path, when = f"spec.placement.rules[{i}]", rule.when
        if rule.name in names:
            raise reader.fail(f"{path}.name", f"{rule.name} is there twice; rename one")
        names.add(rule.name)
        if when.empty:
            raise reader.fail(
                f"{path}.when", "is empty; say urgency, minSize, maxSize, domains or recipients of what is placed"
            )
        if when.min_size is not None and when.max_size is not None and when.min_size > when.max_size:
            raise reader.fail(f"{path}.when.minSize", "is larger than maxSize; lower the one or raise the other")
        if rule.group not in groups:
            raise reader.fail(
                f"{path}.group", f"is {rule.group!r}; write the name of a MailServer: {', '.join(groups)}"
            )


def _check_hostname(reader: Reader, path: str, hostname: str) -> None:
    if not _HOSTNAME.fullmatch(hostname):
        raise reader.fail(path, f"{hostname!r} is not a host name; write one like mx-0.mail.example")


def _ports(reader: Reader, text: str) -> Ports:
    values: dict[str, int] = {}
    path = f"metadata.annotations[{PORTS_ANNOTATION}]"
    for part in filter(None, re.split(r"[,\s]+", text)):
        name, _, number = part.partition("=")
        if name not in Ports.__dataclass_fields__ or not number.isdigit() or not 1 <= int(number) <= 65000:
            raise reader.fail(path, f"has {part!r}; write for example smtp=2525,pop3=2110,status=2180,internal=2200")
        values[name] = int(number)
    return Ports(**values)


def _notes(readers: list[Reader]) -> tuple[str, ...]:
    return tuple(
        f"{r.document.title}: {path} is not used on one machine"
        for r in readers
        for path in r.written
        if path in _NOT_HERE
    )
