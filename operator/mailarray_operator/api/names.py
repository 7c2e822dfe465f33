"""Every label, annotation, port, path and object name, in one file.

Names of objects are made from the names of the user's resources, so that a person who sees one knows the other.
Renderers, observers, chart and tests use these; nothing else spells a name.
"""

from __future__ import annotations

import re

GROUP = "mailarray.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "mailarray-operator"

# Labels -------------------------------------------------------------------------------------------
LABEL_CLUSTER = f"{GROUP}/cluster"  # MailCluster; on everything that belongs to it
LABEL_GROUP = f"{GROUP}/server-group"  # MailServer; on its StatefulSet, pods, volumes
LABEL_COMPONENT = f"{GROUP}/component"  # server | access | catalog-database
LABEL_POD = "statefulset.kubernetes.io/pod-name"  # set by the StatefulSet controller; selects one pod
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_ZONE = "topology.kubernetes.io/zone"
SERVER, ACCESS, DATABASE = "server", "access", "catalog-database"

# Annotations --------------------------------------------------------------------------------------
ANNOTATION_REPLICAS = f"{GROUP}/replicas"  # on a StatefulSet: the operator's own last count
ANNOTATION_APPLIED = f"{GROUP}/applied"  # on everything applied: hash of what was applied
ANNOTATION_DRAIN = f"{GROUP}/draining"  # on a StatefulSet: the drain's persisted state, JSON

# Ports --------------------------------------------------------------------------------------------
# Unprivileged inside the pod; the Services carry the well-known ones.
PORT_SMTP = 2525
PORT_WRITER = 2510  # internal port of the container `smtp`
PORT_SIDECAR = 2520  # internal port of the container `catalog`
FURTHER_WRITERS, FURTHER_SIDECARS = 2600, 2620  # those of further volumes: volume 1 has 2601 and 2621
MAX_VOLUMES = 16  # of a server, as the CRD says
PORT_POP3 = 2110
PORT_POP3S = 2995
PORT_ACCESS = 2530  # internal port of an access server
PORT_POSTGRESQL = 5432
SERVICE_SMTP, SERVICE_POP3, SERVICE_POP3S = 25, 110, 995

CONTAINER_SMTP, CONTAINER_CATALOG, CONTAINER_ACCESS, CONTAINER_POSTGRESQL = "smtp", "catalog", "access", "postgresql"

# Paths in the containers --------------------------------------------------------------------------
PATH_SETTINGS = "/etc/mailarray/settings"  # server.json or access.json: an immutable ConfigMap, named by its content
PATH_TABLE = "/etc/mailarray/table"  # mirroring-table.json: a ConfigMap that lags by a minute; the push does not
PATH_INTERNAL = "/etc/mailarray/internal"  # token
PATH_ACCOUNTS = "/etc/mailarray/accounts"  # accounts, a flat file
PATH_TLS = "/etc/mailarray/tls"  # tls.crt, tls.key
PATH_CATALOG = "/etc/mailarray/catalog"  # url
PATH_VOLUME = "/var/lib/mailarray/volume"  # the server's volume
PATH_RUN = "/run/mailarray"  # UNIX sockets
PATH_SNAPSHOT = "/var/lib/mailarray/accounts"  # an access server's copy of the accounts; a server's is on its volume
FILE_SERVER, FILE_ACCESS, FILE_TABLE = "server.json", "access.json", "mirroring-table.json"
FILE_MX_SERVERS, FILE_MX_ACCESS, FILE_MX_ADDRESSES = "servers.json", "access.json", "addresses.json"
KEY_TOKEN, KEY_ACCOUNTS, KEY_URL, KEY_PASSWORD = "token", "accounts", "url", "password"

VOLUME_CLAIM = "volume"  # the PVC of pod mail-0 is volume-mail-0, of its second volume volume-1-mail-0
DATABASE_CLAIM = "data"  # that of a database's pod


def headless_service(cluster: str) -> str:
    """The Service that gives every server pod of a cluster its DNS name."""
    return f"{cluster}-servers"


def mirroring_table(cluster: str) -> str:
    """ConfigMap with the mirroring table for servers that start."""
    return f"{cluster}-mirroring-table"


def mx_plan(cluster: str) -> str:
    """ConfigMap with the plan of the MX records, for an operator that starts."""
    return f"{cluster}-mx-plan"


def internal_secret(cluster: str) -> str:
    """Secret with the token of the internal ports."""
    return f"{cluster}-internal"


def smtp_service(cluster: str) -> str:
    """The Service that reaches any ready server of a cluster on port 25, from inside of Kubernetes."""
    return f"{cluster}-smtp"


def database(cluster: str) -> str:
    """StatefulSet, Service and Secret of the PostgreSQL that the operator runs itself."""
    return f"{cluster}-catalog-database"


def further_volumes(group: str) -> str:
    """The NetworkPolicy of a MailServer whose servers have several volumes."""
    return f"{group}-volumes"


def access(cluster: str) -> str:
    """Deployment and Service of the access servers."""
    return f"{cluster}-access"


def disruption_budget(cluster: str) -> str:
    """The one PodDisruptionBudget of a cluster."""
    return f"{cluster}-servers"


def settings(owner: str, digest: str) -> str:
    """Immutable ConfigMap with a settings file; `owner` is a MailServer's or an access Deployment's name."""
    return f"{owner}-settings-{digest}"


def server(group: str, ordinal: int) -> str:
    """A server's name is its pod's name."""
    return f"{group}-{ordinal}"


def numbered(name: str, number: int) -> str:
    """Of a server's volume `number`: its container, claim template, path; the first has the name itself."""
    return f"{name}-{number}" if number else name


def writer_port(number: int = 0) -> int:
    """The internal port of the writer of a server's volume."""
    return FURTHER_WRITERS + number if number else PORT_WRITER


def sidecar_port(number: int = 0) -> int:
    """The internal port of its sidecar."""
    return FURTHER_SIDECARS + number if number else PORT_SIDECAR


def claim(server_name: str, number: int = 0) -> str:
    """The PersistentVolumeClaim of a server's volume."""
    return f"{numbered(VOLUME_CLAIM, number)}-{server_name}"


def claimed_by(claim_name: str) -> tuple[str, int]:
    """The other way round; ("", 0) for a claim that is no server's. Names of MailServers begin with a letter."""
    match = _CLAIM.fullmatch(claim_name)
    return ("", 0) if match is None else (match["server"], int(match["number"] or 0))


_CLAIM = re.compile(VOLUME_CLAIM + r"(-(?P<number>[0-9]{1,2}))?-(?P<server>[a-z].*-[0-9]+)")
