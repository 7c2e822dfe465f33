"""The settings files of pods: the same that a launcher on one machine renders, with paths and ports of containers.

All pods of a group share one file, or one for each of a server's volumes, so it holds `{pod}` and `{ordinal}`, which
each process replaces at its start.
Processes listen on every IPv4 address of their pod, which is theirs alone; network policies say who may connect.
"""

from __future__ import annotations

from mailarray.contract.resources import to_settings
from mailarray.contract.server_names import volume_name
from mailarray.contract.settings import (
    ORDINAL,
    POD,
    AccessSettings,
    CatalogSettings,
    DirectorySettings,
    Listen,
    ServerSettings,
    SmtpSettings,
    TlsSettings,
)
from mailarray_operator.api import names
from mailarray_operator.render.context import Context, ServerGroup

FILE_SNAPSHOT = "accounts.sqlite"


def server(context: Context, group: ServerGroup, number: int = 0) -> ServerSettings:
    """For all servers of a group, smtp and sidecar of their volume `number`."""
    spec = context.spec
    volume = names.numbered(names.PATH_VOLUME, number)
    return ServerSettings(
        cluster=context.name,
        server=volume_name(POD, number),
        volume=volume,
        run_directory=f"{names.PATH_RUN}/{number}" if number else names.PATH_RUN,
        smtp=SmtpSettings(
            listen=_listen(names.PORT_SMTP),
            hostname=group.spec.hostname(group.name, ORDINAL, spec.domains[0].name),
            limits=to_settings.smtp_limits(spec, group.spec.storage.volumes),
            proxy_trusted_networks=spec.smtp.proxy_protocol.trusted_networks,
            tls=_tls(context),
            shared_port=group.spec.storage.volumes > 1,
        ),
        writer=_listen(names.writer_port(number)),
        sidecar=_listen(names.sidecar_port(number)),
        token_file=_TOKEN,
        mirroring_table_file=_TABLE,
        storage=to_settings.storage(spec),
        catalog=_CATALOG,
        directory=_directory(context, f"{volume}/accounts"),
        placement=to_settings.placement(spec),
    )


def access(context: Context) -> AccessSettings:
    """For all access servers."""
    spec = context.spec
    pop3, tls = spec.access.pop3, _tls(context)
    return AccessSettings(
        cluster=context.name,
        name=POD,
        hostname=to_settings.access_hostname(spec),
        pop3=_listen(names.PORT_POP3),
        pop3s=None if tls is None else _listen(names.PORT_POP3S),
        internal=_listen(names.PORT_ACCESS),
        token_file=_TOKEN,
        mirroring_table_file=_TABLE,
        catalog=_CATALOG,
        directory=_directory(context, names.PATH_SNAPSHOT),
        copies=spec.storage.copies,
        tls=tls,
        allow_plaintext_login=pop3.allow_plaintext_login,
        max_connections=pop3.max_connections,
        max_connections_per_address=pop3.max_connections_per_address,
        idle_timeout=pop3.idle_timeout,
    )


def _directory(context: Context, snapshot_directory: str) -> DirectorySettings:
    domains = to_settings.domains(context.spec)
    if context.spec.accounts.secret_ref is not None:
        return DirectorySettings(domains=domains, accounts_file=f"{names.PATH_ACCOUNTS}/{names.KEY_ACCOUNTS}")
    return DirectorySettings(domains=domains, snapshot_file=f"{snapshot_directory}/{FILE_SNAPSHOT}")


def _tls(context: Context) -> TlsSettings | None:
    if context.spec.tls is None:
        return None
    return TlsSettings(certificate=f"{names.PATH_TLS}/tls.crt", key=f"{names.PATH_TLS}/tls.key")


def _listen(port: int) -> Listen:
    return Listen(host="0.0.0.0", port=port)


_TOKEN = f"{names.PATH_INTERNAL}/{names.KEY_TOKEN}"
_TABLE = f"{names.PATH_TABLE}/{names.FILE_TABLE}"
_CATALOG = CatalogSettings(url_file=f"{names.PATH_CATALOG}/{names.KEY_URL}")
