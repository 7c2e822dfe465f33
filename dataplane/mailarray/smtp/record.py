"""What a session leaves behind in the log and in the tally: one line for a message accepted, one for a refusal.

Ids are bound once for a session. Bodies never come here. Whether INFO is wanted at all was asked when the service
was made, since building a line costs about as much as receiving a short message.
"""

from __future__ import annotations

from mailarray.model.message import IncomingMessage, Refused
from mailarray.observe.logs import traffic
from mailarray.smtp import replies
from mailarray.smtp.client import ClientAddress
from mailarray.smtp.replies import Refusal
from mailarray.smtp.service import Service, log


class SessionRecord:
    """Counts and logs for one session."""

    __slots__ = ("_client", "_id", "_log_info", "_tally")

    def __init__(self, service: Service, client: ClientAddress, connection_id: str) -> None:
        self._tally = service.tally
        self._log_info = service.log_info
        self._client = client.host
        self._id = connection_id

    def submitted(self, length: int) -> None:
        """A message of so many bytes waits for its outcome."""
        self._tally.pending += length

    def accepted(self, message: IncomingMessage, length: int, message_id: str) -> None:
        """A message is durable."""
        tally = self._tally
        tally.pending -= length
        tally.accepted += 1
        tally.bytes += length
        if self._log_info:
            traffic(
                log,
                "accepted",
                {
                    "connection": self._id,
                    "client": self._client,
                    "sender": message.sender,
                    "recipients": len(message.deliveries),
                    "bytes": length,
                    "message_id": message_id,
                },
            )

    def not_stored(self, length: int) -> None:
        """The sink refused a submitted message."""
        self._tally.pending -= length

    def refused(self, refusal: Refusal | Refused, sender: str | None) -> bytes:
        """A command or message is refused; returns the reply."""
        if isinstance(refusal, Refusal):
            wire, reason = refusal.wire, refusal.reason
        else:
            wire, reason = replies.reply(refusal.code, refusal.status, refusal.text), replies.REASON_SINK
        self._tally.refuse(reason)
        if self._log_info:
            log.info(
                "refused",
                extra={
                    "connection": self._id,
                    "client": self._client,
                    "sender": sender,
                    "reason": reason,
                    "reply": wire[:-2].decode(errors="replace"),
                },
            )
        return wire
