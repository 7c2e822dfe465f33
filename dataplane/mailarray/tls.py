"""The TLS context of STARTTLS, STLS and implicit TLS, read anew when its PEM files change.

Asked by the SMTP and POP3 listeners for each handshake. Sessions that have begun keep the context they began with. New
files that do not fit (a certificate without its key, half-written) leave the old context in place, with one line in the
log for each state of the files.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from mailarray.contract.settings import TlsSettings

log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int, int], ...]


class TlsError(ValueError):
    """The certificate or key cannot be used; one sentence."""


class TlsContext:
    """The newest context that could be loaded."""

    def __init__(self, settings: TlsSettings) -> None:
        """Load the files. Raises TlsError."""
        self._settings = settings
        self._signature = self._look()
        self._context = self._load()

    def current(self) -> ssl.SSLContext:
        """The context for the next handshake; costs two stat calls when nothing has changed."""
        try:
            signature = self._look()
        except TlsError:
            signature = ()
        if signature != self._signature:
            self._signature = signature
            try:
                self._context = self._load()
                log.info("certificate reloaded", extra={"certificate": self._settings.certificate})
            except TlsError as error:
                log.error(
                    "new certificate is not usable, the old one stays",
                    extra={"certificate": self._settings.certificate, "error": str(error)},
                )
        return self._context

    def for_listener(self) -> ssl.SSLContext:
        """A context for a port that speaks TLS from the first byte; each handshake on it takes `current()`."""
        context = self._load()

        def take_newest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self.current()

        context.sni_callback = take_newest  # called for every handshake, also when the client names no host
        return context

    def _look(self) -> _Signature:
        try:
            stats = [Path(path).stat() for path in (self._settings.certificate, self._settings.key)]
        except OSError as error:
            raise TlsError(f"cannot read {error.filename}: {error.strerror}") from error
        return tuple((s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            context.load_cert_chain(self._settings.certificate, self._settings.key, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise TlsError(
                f"certificate {self._settings.certificate} with key {self._settings.key} cannot be used: {error}"
            ) from error
        return context
