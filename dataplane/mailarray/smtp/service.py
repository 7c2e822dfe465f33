"""What all sessions of one listener share, in one object instead of a dozen arguments.

Built by the listener; sessions read it and count in its tally.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from mailarray.contract.settings import SmtpSettings
from mailarray.directory.directory import Directory
from mailarray.model.message import MessageSink, Refused
from mailarray.smtp import replies
from mailarray.smtp.metrics import Tally
from mailarray.smtp.quotas import Quotas
from mailarray.smtp.trace import DateLine

log = logging.getLogger("mailarray.smtp")


class Service:
    """Settings, collaborators, rendered replies and counters."""

    __slots__ = (
        "banner",
        "clock",
        "date",
        "directory",
        "ehlo",
        "ehlo_tls",
        "helo",
        "limits",
        "log_info",
        "quotas",
        "settings",
        "sink",
        "tally",
    )

    def __init__(
        self,
        settings: SmtpSettings,
        directory: Directory,
        sink: MessageSink,
        *,
        clock: Callable[[], float] = time.time,
        quotas: Quotas | None = None,
    ) -> None:
        self.settings = settings
        self.quotas = Quotas() if quotas is None else quotas
        self.limits = settings.limits
        self.directory = directory
        self.sink = sink
        self.clock = clock
        self.date = DateLine()
        self.tally = Tally()
        self.log_info = log.isEnabledFor(
            logging.INFO
        )  # asked once: a line for each message costs as much as the message
        host, size = settings.hostname, settings.limits.max_message_size
        self.banner = replies.banner(host)
        self.helo = replies.helo(host)
        self.ehlo = replies.ehlo(host, max_message_size=size, starttls=settings.tls is not None)
        self.ehlo_tls = replies.ehlo(host, max_message_size=size, starttls=False)

    def refusal(self) -> replies.Refusal | Refused | None:
        """Why no message can be taken now, or None."""
        return self.sink.refusal()
