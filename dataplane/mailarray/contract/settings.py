"""The settings files that a launcher (the one-machine supervisor, or the operator) renders for each process.

One JSON file for a server (read by its `smtp` process and its `catalog` sidecar), one for an access
process. A launcher has already checked what a person wrote; these are complete, frozen, and passed in.
Durations are seconds, sizes are bytes, ports are TCP.

All pods of a group share one file: with a name given to `load`, every string in it may hold `{pod}` (the name) and
`{ordinal}` (the number after its last hyphen). Without a name nothing is replaced; other braces are left alone.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

KIB = 1024
MIB = 1024 * KIB
# Seconds after the last change among a segment's holders, before a copy too many is given back: servers that go and
# come one after the other shall not make copies come and go.
SURPLUS_AFTER = 600.0
POD, ORDINAL = "{pod}", "{ordinal}"  # what `load` replaces


class SettingsError(ValueError):
    """A settings file that does not fit; the text names the field and says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """An address that a process listens on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """PEM files; reloaded when they change, sessions kept."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSettings:
    """A mail domain that the cluster receives for."""

    name: str
    postmaster: str | None = None  # mailbox address that postmaster@name is delivered to


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpLimits:
    """Every limit of the SMTP listener, each with its unit and reason. What is said of one server is, in the file of a
    volume of several, that volume's part of it."""

    max_message_size: int = 50 * MIB  # bytes; announced by SIZE, 552 5.3.4 beyond
    max_connections: int = 1000  # sessions of one server; 421 4.3.2 at connect beyond
    max_connections_per_address: int = 200  # sessions from one client address; one sender cannot take all
    max_recipients: int = 1000  # for one transaction; RFC 5321 4.5.3.1.8 asks for at least 100; 452 4.5.3 beyond
    max_command_line: int = 2048  # bytes with CRLF; RFC 5321 says 512, SMTPUTF8 and long AUTH lines want more
    max_commands_without_mail: int = 100  # commands between two accepted messages: an idler or scanner, 421 beyond
    max_errors: int = 20  # 4xx/5xx replies in one session, then 421 4.7.0
    idle_timeout: float = 300.0  # seconds without a byte; RFC 5321 4.5.3.2.7 asks for 5 minutes
    max_received_headers: int = 100  # Received: lines, RFC 5321 6.3 loop detection; 554 5.4.6 beyond
    soft_pending_bytes: int = 64 * MIB  # bytes of memory of a server's messages that wait for their commit; 451 4.3.1
    # Per cent of max_connections or soft_pending_bytes, above which a growing share of new connections is sent to other
    # servers by 421 4.3.2, if there are any. A tenth is left so that the share can grow before the limit; 100: never.
    soft_limit_percent: int = 90

    def __post_init__(self) -> None:
        if not 1 <= self.soft_limit_percent <= 100:
            raise SettingsError("soft_limit_percent must be from 1 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpSettings:
    """The SMTP listener of one server."""

    listen: Listen
    hostname: str  # in the banner, in EHLO's answer and in Received:
    limits: SmtpLimits = field(default_factory=SmtpLimits)
    proxy_trusted_networks: tuple[str, ...] = ()  # CIDRs that must send a PROXY header; others are taken as they are
    tls: TlsSettings | None = None
    shared_port: bool = False  # the server's other volumes listen on it, too, and it is left while no mail can be taken


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """How mail is kept."""

    copies: int = 2  # servers that hold each message before 250
    on_mirror_loss: str = "Defer"  # Defer: 451 when no mirror can be had; Accept: go on alone and say so
    mirror_timeout: float = 1.0  # seconds without progress before a mirror is left
    segment_size: int = 256 * MIB  # bytes; a segment is closed at the first batch end beyond
    segment_age: float = 600.0  # seconds; a segment is closed when it is older
    reserve: int = 64 * MIB  # bytes of the volume kept free: 452 4.3.1 when less is left
    compact_percent: int = 50  # of a segment must be deleted mail before it is written anew without; 100: never
    compact_least: int = 8 * MIB  # bytes that writing segments anew must free; less is not worth the disk's time
    # Seconds within which a message that is delivered once more, since its sender never heard our 250, is dropped; 0:
    # never. Senders try again after minutes, most within half an hour.
    duplicate_window: float = 3600.0
    scrub_interval: float = 14 * 86400.0  # seconds within which everything on a volume is read through and checked
    scrub_rate: int = 16 * MIB  # bytes/s of that at most: a tenth of a slow disk
    surplus_after: float = SURPLUS_AFTER  # seconds; tests want it short
    copy_rate: int = (
        64 * MIB
    )  # bytes/s that one server fetches for repairs: half a gigabit link, a fifth of a plain SSD


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementWhen:
    """What a message must be like for a rule to fit: everything that is given here, and at least one thing is."""

    urgency: str | None = None  # High, Normal or Low
    min_size: int | None = None  # bytes of the text with its trace lines; that size fits
    max_size: int | None = None  # likewise
    domains: tuple[str, ...] = ()  # one recipient in one of them is enough
    recipients: tuple[str, ...] = ()  # addresses; one of them is enough


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRule:
    """Messages like this are kept on the servers of that group."""

    name: str
    when: PlacementWhen
    group: str  # of servers: the name of a MailServer


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSettings:
    """Which servers keep a message; without rules the one that received it."""

    rules: tuple[PlacementRule, ...] = ()  # the first that fits decides
    hand_over_timeout: float = 2.0  # seconds for another server to keep a message, before this one keeps it itself


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSettings:
    """The catalog database; accounts that are kept in a database are kept in the same. Exactly one field is given."""

    url: str | None = field(default=None, repr=False)  # sqlite:///path or postgresql://user:password@host:port/name
    url_file: str | None = None  # file that holds nothing but the URL: a mounted Secret

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.url_file):
            raise SettingsError("needs either url or url_file")

    def current_url(self) -> str:
        """The URL as it is now: asked before each connection, so that a changed Secret counts without a restart.

        Raises SettingsError, whose text never holds the URL: there is a password in it.
        """
        if self.url:
            return self.url
        assert self.url_file is not None
        try:
            url = Path(self.url_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(
                f"{self.url_file} cannot be read: {error.strerror}; it should hold the URL of the catalog's database"
            ) from None
        except UnicodeDecodeError:
            raise SettingsError(
                f"{self.url_file} is not text; it should hold the URL of the catalog's database"
            ) from None
        if not url:
            raise SettingsError(f"{self.url_file} is empty; it should hold the URL of the catalog's database")
        return url


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySettings:
    """Where domains and accounts come from. Exactly one of the files is given."""

    domains: tuple[DomainSettings, ...]
    accounts_file: str | None = None  # flat file, reloaded when it changes
    # Accounts in the catalog's database: the process's copy of them, an SQLite file in a folder of its own. On a
    # server it lies on the volume, its sidecar writes it and its smtp process reads it; an access server has its own.
    snapshot_file: str | None = None

    def __post_init__(self) -> None:
        if bool(self.accounts_file) == bool(self.snapshot_file):
            raise SettingsError("needs either accounts_file or snapshot_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """One server of the array, or a further volume of one: its smtp process and its sidecar read the same file."""

    cluster: str
    server: str  # name of the server, for example mail-0; of its second volume mail-0.1 (server_names.py)
    volume: str  # directory of the volume
    run_directory: str  # directory for its UNIX socket
    smtp: SmtpSettings
    writer: Listen  # internal port of the smtp process
    sidecar: Listen  # internal port of the catalog sidecar
    token_file: str  # file with the shared token of the internal ports; read once, at start
    mirroring_table_file: str
    storage: StorageSettings
    catalog: CatalogSettings
    directory: DirectorySettings
    placement: PlacementSettings = field(default_factory=PlacementSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """One access server (POP3)."""

    cluster: str
    name: str  # of the process; it holds mailbox locks under it, so each access server has its own
    hostname: str  # in the greeting
    pop3: Listen
    internal: Listen  # status and metrics
    token_file: str  # file with the shared token of the internal ports; read once, at start
    mirroring_table_file: str
    catalog: CatalogSettings
    directory: DirectorySettings
    copies: int = 2  # servers that hold each message; how many may be silent when the catalog is away
    tls: TlsSettings | None = None
    pop3s: Listen | None = None  # TLS from the first byte (RFC 8314); needs tls
    allow_plaintext_login: bool = False  # login without TLS from other than loopback
    max_connections: int = 1000
    max_connections_per_address: int = 100
    idle_timeout: float = 600.0  # seconds; RFC 1939 section 3 asks for at least 10 minutes

    def __post_init__(self) -> None:
        if self.pop3s is not None and self.tls is None:
            raise SettingsError("has pop3s without tls; give a certificate and key, or leave pop3s out")


T = TypeVar("T")
# Left out of the files while they have these values: files of servers that do not need them, in pods above all, stay
# what they were before there were such fields, and older processes can read them.
_LEFT_OUT = (("shared_port", False), ("surplus_after", SURPLUS_AFTER))


def dump(settings: object) -> str:
    """Render settings as JSON, indented and with sorted keys, so that equal settings give equal files."""
    whole = dataclasses.asdict(settings, dict_factory=_object)  # type: ignore[call-overload]
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if (name, value) not in _LEFT_OUT}


def load(cls: type[T], path: str | Path, name: str | None = None) -> T:
    """Read a settings file, for the pod `name` if one is given.

    Raises SettingsError with one sentence, or OSError when it cannot be read.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}") from error
    try:
        return typing.cast(T, _build(cls, raw if name is None else _for_pod(raw, name), "settings"))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _for_pod(raw: Any, name: str) -> Any:
    if isinstance(raw, dict):
        return {key: _for_pod(value, name) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_for_pod(value, name) for value in raw]
    if not isinstance(raw, str):
        return raw
    ordinal = name.rpartition("-")[2]
    if ORDINAL in raw and not (ordinal.isascii() and ordinal.isdigit()):
        raise SettingsError(f"{ORDINAL} is used, but the name {name!r} does not end in a hyphen and a number")
    return raw.replace(ORDINAL, ordinal).replace(POD, name)


def _build(kind: Any, raw: Any, where: str) -> Any:  # a recursive walk over annotations has no narrower type
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return None if raw is None else _build(inner[0], raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise SettingsError(f"{where} must be a list, not {type(raw).__name__}")
        return tuple(_build(typing.get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    if dataclasses.is_dataclass(kind):
        if not isinstance(raw, dict):
            raise SettingsError(f"{where} must be an object, not {type(raw).__name__}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(raw) - set(hints))
        if unknown:
            raise SettingsError(f"{where} has an unknown field {unknown[0]!r}")
        values = {name: _build(hints[name], value, f"{where}.{name}") for name, value in raw.items()}
        build: Any = kind
        try:
            return build(**values)
        except TypeError as error:
            raise SettingsError(f"{where}: {error}") from error
        except SettingsError as error:
            raise SettingsError(f"{where} {error}") from None
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if not isinstance(raw, kind) or (kind is int and isinstance(raw, bool)):
        raise SettingsError(f"{where} must be {kind.__name__}, not {type(raw).__name__}")
    return raw
