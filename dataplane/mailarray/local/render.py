"""Resources and a layout in, settings out. Pure: no clock, environment or file is touched.

Ports on loopback: SMTP from `ports.smtp` up, one a server, which all its volumes share; internal ports from
`ports.internal`, one a volume: writers +10, sidecars +20, access +30. Called by `up.py`, which writes the files and
starts the processes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mailarray.contract import mirroring_ring, mirroring_table, settings
from mailarray.contract.resources import to_settings
from mailarray.contract.server_names import group_of, host_of
from mailarray.contract.settings import AccessSettings, Listen, ServerSettings, TlsSettings
from mailarray.local.layout import Layout
from mailarray.local.resources import Resources

HOST = "127.0.0.1"  # one machine is for a first look, development and tests: nothing listens to the outside
WRITER_OFFSET, SIDECAR_OFFSET, ACCESS_OFFSET = 10, 20, 30
ACCESS_NAME = "access"


@dataclass(frozen=True, slots=True)
class RenderedArray:
    """Everything the processes of one array are told."""

    cluster: str
    servers: tuple[ServerSettings, ...]  # one for each volume, server by server
    access: AccessSettings
    table: mirroring_table.MirroringTable
    status: Listen

    def files(self, layout: Layout) -> dict[str, str]:
        """Settings files, by path."""
        texts = {str(layout.settings_file(s.server)): settings.dump(s) for s in self.servers}
        texts[str(layout.settings_file(ACCESS_NAME))] = settings.dump(self.access)
        texts[str(layout.mirroring_table)] = mirroring_table.dump(self.table)
        return texts

    def ports(self) -> list[tuple[Listen, str]]:
        """Every port that will be listened on, and what for."""
        wanted = [
            (self.status, "status"),
            (self.access.pop3, "POP3"),
            (self.access.internal, "internal port of access"),
        ]
        for server in self.servers:
            wanted += [
                (server.smtp.listen, f"SMTP of {host_of(server.server)}"),
                (server.writer, f"internal port of {server.server}"),
                (server.sidecar, f"catalog sidecar of {server.server}"),
            ]
        return wanted


def render(
    resources: Resources, layout: Layout, *, generation: int = 1, catalog_url: str | None = None
) -> RenderedArray:
    """The whole array. `catalog_url` replaces the SQLite file of the layout."""
    catalog = settings.CatalogSettings(url=catalog_url or f"sqlite:///{layout.catalog_file}")
    servers = tuple(
        _server(resources, layout, name, index, catalog) for index, name in enumerate(resources.volume_names)
    )
    table = mirroring_ring.ring(
        [
            mirroring_table.Server(s.server, str(s.sidecar), str(s.writer), *_place(resources, host_of(s.server)))
            for s in servers
        ],
        generation,
    )
    return RenderedArray(
        cluster=resources.cluster,
        servers=servers,
        access=_access(resources, layout, catalog),
        table=table,
        status=Listen(host=HOST, port=resources.ports.status),
    )


def _place(resources: Resources, server: str) -> tuple[str, str]:
    """Zone and node that a server pretends to be in."""
    zones, index = resources.zones, resources.server_names.index(server)
    return (zones[index % len(zones)], f"node-{index}") if zones else ("", "")


def _server(
    resources: Resources, layout: Layout, name: str, index: int, catalog: settings.CatalogSettings
) -> ServerSettings:
    spec, ports, host = resources.spec, resources.ports, host_of(name)
    group = next(g for g in resources.groups if g.name == group_of(name))
    ordinal = host.rpartition("-")[2]
    storage = to_settings.storage(spec)
    if resources.surplus_after is not None:
        storage = replace(storage, surplus_after=resources.surplus_after)
    return ServerSettings(
        cluster=resources.cluster,
        server=name,
        volume=str(layout.volume(name)),
        run_directory=str(layout.run(name)),
        smtp=settings.SmtpSettings(
            listen=Listen(host=HOST, port=ports.smtp + resources.server_names.index(host)),
            hostname=group.spec.hostname(group.name, ordinal, spec.domains[0].name),
            limits=to_settings.smtp_limits(spec, group.spec.storage.volumes),
            proxy_trusted_networks=spec.smtp.proxy_protocol.trusted_networks,
            tls=_tls(resources, layout),
            shared_port=group.spec.storage.volumes > 1,
        ),
        writer=Listen(host=HOST, port=ports.internal + WRITER_OFFSET + index),
        sidecar=Listen(host=HOST, port=ports.internal + SIDECAR_OFFSET + index),
        token_file=str(layout.token),
        mirroring_table_file=str(layout.mirroring_table),
        storage=storage,
        catalog=catalog,
        directory=_directory(resources, layout, layout.volume(name)),
        placement=to_settings.placement(spec),
    )


def _access(resources: Resources, layout: Layout, catalog: settings.CatalogSettings) -> AccessSettings:
    spec, ports = resources.spec, resources.ports
    pop3 = spec.access.pop3
    return AccessSettings(
        cluster=resources.cluster,
        name=ACCESS_NAME,
        hostname=to_settings.access_hostname(spec),
        pop3=Listen(host=HOST, port=ports.pop3),
        internal=Listen(host=HOST, port=ports.internal + ACCESS_OFFSET),
        token_file=str(layout.token),
        mirroring_table_file=str(layout.mirroring_table),
        catalog=catalog,
        directory=_directory(resources, layout, layout.access),
        copies=spec.storage.copies,
        tls=_tls(resources, layout),
        allow_plaintext_login=pop3.allow_plaintext_login,
        max_connections=pop3.max_connections,
        max_connections_per_address=pop3.max_connections_per_address,
        idle_timeout=pop3.idle_timeout,
    )


def _directory(resources: Resources, layout: Layout, own: Path) -> settings.DirectorySettings:
    domains = to_settings.domains(resources.spec)
    if resources.spec.accounts.database is not None:
        return settings.DirectorySettings(domains=domains, snapshot_file=str(own / "accounts" / "snapshot.sqlite"))
    return settings.DirectorySettings(domains=domains, accounts_file=str(layout.accounts))


def _tls(resources: Resources, layout: Layout) -> TlsSettings | None:
    if resources.spec.tls is None:
        return None
    return TlsSettings(certificate=str(layout.certificate), key=str(layout.key))
