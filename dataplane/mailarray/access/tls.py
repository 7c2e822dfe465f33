"""The certificate for STLS, read again when its files change; sessions that run keep theirs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from mailarray.contract.settings import TlsSettings

log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int], ...]


class ReloadingCertificate:
    """Hands out a server context for each handshake; the last good one while the files do not fit together."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises OSError or ssl.SSLError when the files cannot be used at start."""
        self._settings = settings
        self._seen = self._signature()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """The context of the files as they are now."""
        try:
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature  # also when it fails below: one log line for one change
                self._context = self._load()
                log.info("certificate reloaded", extra={"certificate": self._settings.certificate})
        except (OSError, ssl.SSLError) as error:
            log.error("certificate not reloaded, the old one stays", extra={"reason": str(error)})
        return self._context

    def _signature(self) -> _Signature:
        stats = (Path(p).stat() for p in (self._settings.certificate, self._settings.key))
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: nothing older
        context.load_cert_chain(self._settings.certificate, self._settings.key)
        return context
