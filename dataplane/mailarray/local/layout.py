"""Where everything lies under the data folder, and who may open it.

    data/
      lock                              held while `mailarray up` runs
      accounts                          the flat file
      token                             shared by the internal ports
      demo-password                     of demo@mail.example, 0600
      settings/                         what the launcher rendered; written anew at each start
        mail-0.json  access.json  mirroring-table.json
      catalog/catalog.sqlite            the index; may be deleted while nothing runs, and rebuilt
      catalog/accounts.sqlite           the accounts, when they are in the database; not to be deleted
      servers/mail-0/volume/            the mail itself: the journals of one server
      servers/mail-0/run/  log/         UNIX socket; logs
      servers/mail-0/volume-1/ run-1/ log-1/     those of its second volume, where spec.storage.volumes is 2 or more
      access/run/  log/
      log/up.log                        the launcher's own
      tls/tls.crt  tls.key              when the MailCluster has spec.tls

Invariant: a server's folder is opened by that server's processes alone; what they share is the catalog folder and
files that they only read. With users of their own for each server (`Isolation`), the system enforces it.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from mailarray.contract.server_names import host_of, number_of

TOKEN_BYTES = 32
ISOLATED_USER_BASE = 42000  # first user id of isolated servers; its number is also the shared group's id


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under one data folder."""

    data: Path

    @property
    def lock(self) -> Path:
        """Held by the launcher."""
        return self.data / "lock"

    @property
    def accounts(self) -> Path:
        """The flat file."""
        return self.data / "accounts"

    @property
    def token(self) -> Path:
        """The shared token."""
        return self.data / "token"

    @property
    def demo_password(self) -> Path:
        """The demo account's password."""
        return self.data / "demo-password"

    @property
    def settings(self) -> Path:
        """Rendered settings files."""
        return self.data / "settings"

    @property
    def mirroring_table(self) -> Path:
        """The mirroring table for processes that start."""
        return self.settings / "mirroring-table.json"

    @property
    def catalog(self) -> Path:
        """Folder of the SQLite files."""
        return self.data / "catalog"

    @property
    def catalog_file(self) -> Path:
        """The catalog."""
        return self.catalog / "catalog.sqlite"

    @property
    def log(self) -> Path:
        """The launcher's own log."""
        return self.data / "log" / "up.log"

    @property
    def certificate(self) -> Path:
        """PEM chain, named as in a Kubernetes TLS Secret."""
        return self.data / "tls" / "tls.crt"

    @property
    def key(self) -> Path:
        """PEM key."""
        return self.data / "tls" / "tls.key"

    @property
    def access(self) -> Path:
        """Folder of the access server."""
        return self.data / "access"

    def server(self, name: str) -> Path:
        """Folder of one server."""
        return self.data / "servers" / host_of(name)

    def volume(self, name: str) -> Path:
        """One volume of a server, by its name."""
        return self._numbered(name, "volume")

    def run(self, name: str) -> Path:
        """Folder of its UNIX socket."""
        return self._numbered(name, "run")

    def logs(self, name: str) -> Path:
        """Folder of its logs."""
        return self._numbered(name, "log")

    def _numbered(self, name: str, folder: str) -> Path:
        number = number_of(name)
        return self.server(name) / (f"{folder}-{number}" if number else folder)

    def settings_file(self, name: str) -> Path:
        """Settings of one server, or of `access`."""
        return self.settings / f"{name}.json"


@dataclass(frozen=True, slots=True)
class Owner:
    """User and group that a process runs under."""

    user: int
    group: int


@dataclass(frozen=True, slots=True)
class Isolation:
    """User ids of their own: server i has `base` + i, the access server comes after the last one."""

    base: int = ISOLATED_USER_BASE

    @property
    def group(self) -> int:
        """Shared by all, for the catalog and what all read."""
        return self.base

    def owner(self, index: int) -> Owner:
        """Owner of the index-th folder."""
        return Owner(self.base + index, self.group)


def prepare(layout: Layout, volumes: tuple[str, ...], isolation: Isolation | None) -> None:
    """Make all folders, and the token when there is none; `volumes` are names, server by server. Raises OSError. May be
    run again and again."""
    group = isolation.group if isolation else None
    _folder(layout.data, 0o750, group=group)
    _folder(layout.data / "servers", 0o750, group=group)
    _folder(layout.log.parent, 0o700)
    _folder(layout.settings, 0o750, group=group)
    _folder(layout.catalog, 0o2770 if isolation else 0o700, group=group)
    if isolation:
        # SQLite gives its -wal and -shm files the mode and group of the database, so the first file settles it.
        layout.catalog_file.touch()
        for file in layout.catalog.iterdir():
            share(file, 0o660, group)
    servers = tuple(dict.fromkeys(map(host_of, volumes)))
    for index, name in enumerate((*servers, None)):
        folder = layout.access if name is None else layout.server(name)
        owner = isolation.owner(index) if isolation else None
        own = [volume for volume in volumes if host_of(volume) == name]
        further = [path for one in own for path in (layout.volume(one), layout.run(one), layout.logs(one))]
        for path in (folder, *(further or (folder / "run", folder / "log"))):
            _folder(path, 0o700, owner=owner)
    if not layout.token.exists():
        write_private(layout.token, secrets.token_urlsafe(TOKEN_BYTES) + "\n")
    for path in (layout.token, layout.accounts, layout.certificate.parent, layout.certificate, layout.key):
        if path.exists():
            share(
                path, (0o750 if path.is_dir() else 0o640) if isolation else (0o700 if path.is_dir() else 0o600), group
            )


def share(path: Path, mode: int, group: int | None) -> None:
    """Set mode and, if given, group."""
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)


def write_private(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees the old or the new one, mode 0600 from its first byte."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _folder(path: Path, mode: int, *, owner: Owner | None = None, group: int | None = None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if owner is not None:
        _own_all(path, owner)
    share(path, mode, owner.group if owner else group)


def _own_all(path: Path, owner: Owner) -> None:
    """Files from a run without isolation change hands."""
    if path.stat().st_uid == owner.user:
        return
    for folder, _, files in os.walk(path):
        os.chown(folder, owner.user, owner.group)
        for name in files:
            os.chown(Path(folder) / name, owner.user, owner.group, follow_symlinks=False)
