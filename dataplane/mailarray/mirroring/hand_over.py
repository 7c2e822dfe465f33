"""Handing messages over to the writers of other servers, which keep them: choosing one, and the PUT.

Invariants:

- `hand_over` returns only when the other writer has acknowledged the message as its own mail is (rule 2); on anything
  else it raises, and says nothing of whether the other one wrote it: the caller then keeps the message itself under the
  same id, and rule 16 makes one message of both.
- Each message is tried on one server, once. A server that failed is left alone for a while, and then tried with one
  message at a time until it takes one; a server that is busy is passed over; when none is left the caller hears so at
  once. So a group that hangs delays a few senders, not all of them.
- Bodies are read from where they lie: nothing is copied for it but what the socket takes.

Called by `smtp/placing.py`. Batches to mirrors do not come here: `link.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator

from mailarray.contract import paths
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.mirroring import metrics
from mailarray.mirroring.link import MIN_MIRROR_RATE
from mailarray.mirroring.peer import PeerConnection, PeerError, explain
from mailarray.mirroring.record_frame import encode_frame
from mailarray.model.message import Identity, IncomingMessage

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 32  # hand-overs to one server at a time, each on a connection of its own; they share its batches
RETRY_AFTER = 1.0  # seconds that a server is left alone after it refused: trying again costs next to nothing
SILENT_AFTER = 4.0  # likewise after it said nothing in time: trying again costs a sender the whole time limit,
MAX_SILENT_AFTER = 32.0  # so the pause doubles up to this


class NotHandedOver(Exception):
    """The other server did not say that it has the message; the text says why."""


class Keeper:
    """One server that keeps messages for others."""

    def __init__(self, server: Server, token: str, now: Callable[[], float]) -> None:
        self.server = server
        self.under_way = 0  # chosen, and not ended
        self.last_error = ""
        self._token = token
        self._now = now
        self._left_until = 0.0
        self._silent_pause = SILENT_AFTER
        self._idle: list[PeerConnection] = []
        self._closed = False

    @property
    def free(self) -> bool:
        """May be given a message now."""
        return self.under_way < (1 if self.last_error else MAX_UNDER_WAY) and self._now() >= self._left_until

    async def hand_over(self, message: IncomingMessage, identity: Identity, timeout: float) -> None:
        """Ends when the message is acknowledged there. Raises NotHandedOver; `timeout` is seconds for all of it.

        To be called once after `Keepers.choose`, which counted it.
        """
        started = self._now()
        patience = timeout + message.body.length / MIN_MIRROR_RATE
        connection = self._idle.pop() if self._idle else PeerConnection(self.server.writer, self._token)
        try:
            frame = encode_frame(message, identity)
            async with asyncio.timeout(patience):
                response = await connection.request(
                    "PUT",
                    paths.record_path(identity.id.hex()),
                    2 * patience,  # without progress; the limit for all of it, above, comes first
                    _chunks(frame, message),
                    len(frame) + message.body.length,
                )
        except (PeerError, OSError) as error:
            # A spooled body that cannot be read is an OSError too; this server's writer will find that out as well.
            reason = str(error if isinstance(error, PeerError) else explain(error, patience))
            raise self._failed(reason, silent=isinstance(error, TimeoutError)) from error
        finally:
            self.under_way -= 1
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)  # closed by itself after an error, and opened again when it is used
        if response.status != 200:
            raise self._failed(_reason(response.body) or f"it answered {response.status}")
        if self.last_error:
            log.info("server keeps messages again", extra={"server": self.server.name})
            self.last_error, self._silent_pause = "", SILENT_AFTER
        metrics.HAND_OVER_SECONDS.observe(self._now() - started)

    def _failed(self, reason: str, *, silent: bool = False) -> NotHandedOver:
        if not self.last_error:
            log.warning("server keeps no messages for others", extra={"server": self.server.name, "reason": reason})
        self.last_error = reason
        if self._now() >= self._left_until:  # else one that was under way when others failed
            self._left_until = self._now() + (self._silent_pause if silent else RETRY_AFTER)
            if silent:
                self._silent_pause = min(2 * self._silent_pause, MAX_SILENT_AFTER)
        return NotHandedOver(f"{self.server.name}: {reason}")

    def close(self) -> None:
        """Drop connections: idle ones now, others when their message is through."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class Keepers:
    """All servers that messages may be handed over to, by group, as the newest mirroring table says."""

    def __init__(
        self, server: str, token: str, table: Callable[[], MirroringTable], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._token = token
        self._read_table = table
        self._now = now
        self._table: MirroringTable | None = None
        self._groups: dict[str, list[Keeper]] = {}
        self._turn = 0

    def choose(self, group: str) -> Keeper | None:
        """The next free server of a group, in turn; None when there is none. The caller calls `hand_over` once."""
        self._follow_table()
        keepers = self._groups.get(group, ())
        for step in range(len(keepers)):
            keeper = keepers[(self._turn + step) % len(keepers)]
            if keeper.free:
                self._turn += step + 1
                keeper.under_way += 1
                return keeper
        return None

    def status(self) -> list[dict[str, object]]:
        """For /v1/status: every server that was or may be chosen."""
        return [
            {"server": keeper.server.name, "under_way": keeper.under_way, "error": keeper.last_error}
            for group in self._groups.values()
            for keeper in group
        ]

    def close(self) -> None:
        """Drop all connections."""
        for group in self._groups.values():
            for keeper in group:
                keeper.close()

    def _follow_table(self) -> None:
        table = self._read_table()
        if table is self._table:
            return
        self._table = table
        before = {keeper.server: keeper for group in self._groups.values() for keeper in group}
        self._groups = {}
        for server in table.servers:
            if server.serving and server.name != self._server:
                keeper = before.pop(server, None) or Keeper(server, self._token, self._now)
                self._groups.setdefault(server.group, []).append(keeper)
        for keeper in before.values():
            keeper.close()


def _chunks(frame: bytes, message: IncomingMessage) -> Iterator[bytes]:
    yield frame
    yield from message.body.chunks()


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
