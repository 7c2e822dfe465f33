"""MailCluster: the one mail server that users see."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from mailarray.contract.resources.common import Expose, KeyRef, NameRef
from mailarray.contract.resources.reading import Duration, Free, Seconds, Size
from mailarray.contract.settings import SmtpLimits, StorageSettings

POP3_IDLE_TIMEOUT = 600.0  # seconds; RFC 1939 section 3 asks for at least 10 minutes

_STORAGE, _SMTP = StorageSettings(), SmtpLimits()  # the defaults, with their reasons, stand in the settings


@dataclass(frozen=True, slots=True)
class Domain:
    """spec.domains[]."""

    name: str
    postmaster: str | None = None


@dataclass(frozen=True, slots=True)
class AccountsDatabase:
    """spec.accounts.database: accounts in the catalog's database."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """spec.accounts: one of both."""

    secret_ref: NameRef | None = None
    database: AccountsDatabase | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """spec.storage."""

    copies: int = _STORAGE.copies
    spread: Literal["Zone", "Node"] = "Zone"
    on_mirror_loss: Literal["Defer", "Accept"] = "Defer"
    mirror_timeout: Duration = _STORAGE.mirror_timeout
    segment_size: Size = _STORAGE.segment_size
    segment_age: Duration = _STORAGE.segment_age
    reserve: Size = _STORAGE.reserve
    copy_rate: Size = _STORAGE.copy_rate
    compact_percent: int = _STORAGE.compact_percent
    compact_least: Size = _STORAGE.compact_least
    scrub_interval: Duration = _STORAGE.scrub_interval
    scrub_rate: Size = _STORAGE.scrub_rate
    duplicates: Literal["Drop", "Keep"] = "Drop"
    duplicate_window: Duration = _STORAGE.duplicate_window


@dataclass(frozen=True, slots=True)
class When:
    """spec.placement.rules[].when: everything that is given must fit."""

    urgency: Literal["High", "Normal", "Low"] | None = None
    min_size: Size | None = None
    max_size: Size | None = None
    domains: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for, which the API server refuses."""
        return self == When()


@dataclass(frozen=True, slots=True)
class PlacementRule:
    """spec.placement.rules[]."""

    name: str
    when: When
    group: str  # name of a MailServer


@dataclass(frozen=True, slots=True)
class Placement:
    """spec.placement."""

    rules: tuple[PlacementRule, ...] = ()
    hand_over_timeout: Duration | None = None  # left out: twice storage.mirrorTimeout

    def without_group(self, groups: Collection[str]) -> list[PlacementRule]:
        """Rules whose group is not among these MailServers: such mail stays where it is received."""
        return [rule for rule in self.rules if rule.group not in groups]


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    """spec.smtp.proxyProtocol."""

    trusted_networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Smtp:
    """spec.smtp: the limits are explained where the data plane keeps them, `contract/settings.py`."""

    max_message_size: Size = _SMTP.max_message_size
    max_connections: int = _SMTP.max_connections
    max_connections_per_address: int = _SMTP.max_connections_per_address
    max_recipients: int = _SMTP.max_recipients
    max_command_line: int = _SMTP.max_command_line
    max_commands_without_mail: int = _SMTP.max_commands_without_mail
    max_errors: int = _SMTP.max_errors
    idle_timeout: Duration = _SMTP.idle_timeout
    max_received_headers: int = _SMTP.max_received_headers
    soft_pending_bytes: Size = _SMTP.soft_pending_bytes
    soft_limit_percent: int = _SMTP.soft_limit_percent
    proxy_protocol: ProxyProtocol = field(default_factory=ProxyProtocol)


@dataclass(frozen=True, slots=True)
class Pop3:
    """spec.access.pop3."""

    max_connections: int = 1000
    max_connections_per_address: int = 100
    idle_timeout: Duration = POP3_IDLE_TIMEOUT
    allow_plaintext_login: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """spec.access."""

    replicas: int = 2
    hostname: str | None = None
    expose: Expose = field(default_factory=Expose)
    pop3: Pop3 = field(default_factory=Pop3)
    resources: Free | None = None


@dataclass(frozen=True, slots=True)
class CatalogStorage:
    """spec.catalog.storage: the volume of the PostgreSQL that the operator runs itself."""

    size: Size = 10 << 30
    storage_class_name: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """spec.catalog."""

    database_secret_ref: KeyRef | None = None
    storage: CatalogStorage = field(default_factory=CatalogStorage)


@dataclass(frozen=True, slots=True)
class ExternalServer:
    """spec.mx.external[]: a server of others that stands in the MX records too."""

    hostname: str
    preference: int


@dataclass(frozen=True, slots=True)
class Mx:
    """spec.mx: what the figures do is said in `docs/mx.md`."""

    strategy: Literal["Load", "RoundTable", "Random", "Static"] = "Load"
    ttl: Seconds = 60
    min_targets: int = 2
    max_targets: int = 20
    publish: Literal["ExternalDNS", "None"] = "ExternalDNS"
    external: tuple[ExternalServer, ...] = ()


@dataclass(frozen=True, slots=True)
class Tls:
    """spec.tls."""

    secret_ref: NameRef


@dataclass(frozen=True, slots=True)
class MailClusterSpec:
    """spec of a MailCluster."""

    domains: tuple[Domain, ...]
    accounts: Accounts = field(default_factory=Accounts)
    storage: Storage = field(default_factory=Storage)
    placement: Placement = field(default_factory=Placement)
    catalog: Catalog = field(default_factory=Catalog)
    smtp: Smtp = field(default_factory=Smtp)
    access: Access = field(default_factory=Access)
    mx: Mx = field(default_factory=Mx)
    tls: Tls | None = None
    paused: bool = False
