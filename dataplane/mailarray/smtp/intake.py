"""One message text on its way into a body writer, with the reasons to refuse it found on the way.

Used by the session. Two-phase: nothing is permanent before `finish`, and `discard` is always possible. A text that
will be refused is still taken to its end, since only there the sender hears the reply; what was stored of it is
given back at once. The writer is finished or discarded exactly once.
"""

from __future__ import annotations

import logging

from mailarray.contract.settings import SmtpLimits
from mailarray.model.message import Body, BodyWriter, Refused
from mailarray.smtp import replies
from mailarray.smtp.data import HopCounter
from mailarray.smtp.fingerprint import Fingerprint
from mailarray.smtp.replies import Refusal

log = logging.getLogger(__name__)


class Intake:
    """Takes text in pieces; the first begins with our own trace lines."""

    __slots__ = ("_hops", "_left", "_max_hops", "_text", "_writer", "fault")

    def __init__(self, writer: BodyWriter | None, trace: bytes, limits: SmtpLimits) -> None:
        """`writer` is None when the text is refused already: set `fault` too."""
        self._writer = writer
        self._left = limits.max_message_size + len(trace)
        self._max_hops = limits.max_received_headers + 1  # and our own line
        self._hops: HopCounter | None = HopCounter()  # until the header is over
        self._text = Fingerprint(len(trace))
        self.fault: Refusal | Refused | None = None

    def write(self, text: bytes) -> None:
        """Store a piece, unless the message will be refused."""
        writer = self._writer
        if writer is None:
            return
        self._left -= len(text)
        if self._left < 0:
            self._spoil(replies.TOO_LARGE)
            return
        hops = self._hops
        if hops is not None:
            if not hops.feed(text):
                self._hops = None
            if hops.hops > self._max_hops:
                self._spoil(replies.LOOP)
                return
        self._text.feed(text)
        try:
            writer.write(text)
        except OSError as error:
            log.error("message text cannot be stored", extra={"error": str(error)})
            self._spoil(replies.NO_SPACE)

    def finish(self) -> Body | None:
        """The whole text, or None when there is a `fault`."""
        writer = self._writer
        if writer is None:
            return None
        try:
            body = writer.finish()
        except OSError as error:
            log.error("message text cannot be stored", extra={"error": str(error)})
            self._spoil(replies.NO_SPACE)
            return None
        self._writer = None
        return body

    @property
    def fingerprint(self) -> bytes:
        """Of the text without our trace lines; empty when it has no Message-ID."""
        return self._text.finish()

    def discard(self) -> None:
        """The transaction ended without a message."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()

    def _spoil(self, refusal: Refusal) -> None:
        self.fault = refusal
        self.discard()
