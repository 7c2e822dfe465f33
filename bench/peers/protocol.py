"""Mailarray's SMTP protocol with nothing behind it: the listener is the production one, the sink forgets.

`python -m bench.peers.protocol PORT` is the server itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.addresses import DOMAIN, MAX_MESSAGES, address, mailbox
from bench.peers.peer import Peer, System
from bench.processes import Daemon, free_port, running
from mailarray.contract.settings import Listen, SmtpSettings
from mailarray.directory.directory import Account, NotFound
from mailarray.model.ids import new_message_id
from mailarray.model.message import Committed, IncomingMessage, Outcome, Refused


class OurProtocol(Peer):
    name = "Mailarray's protocol alone"
    counted = "accepted, nothing stored"

    def unavailable(self) -> str | None:
        return None if importlib.util.find_spec("mailarray.smtp.listener") else "mailarray.smtp.listener is missing"

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[System]:
        port = free_port()
        argv = [sys.executable, "-m", "bench.peers.protocol", str(port)]
        with running(Daemon(self.name, argv, directory / "log")) as daemon:
            daemon.wait_for_port(port)
            yield System([port], [daemon])


class _Body:
    """A text that was gathered in memory, as production does with small ones."""

    checksum = 0

    def __init__(self, pieces: list[bytes], length: int) -> None:
        self._pieces = pieces
        self.length = self.in_memory = length

    def chunks(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def release(self) -> None:
        self._pieces = []


class _BodyWriter:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.length = 0

    def write(self, chunk: bytes) -> None:
        self._pieces.append(bytes(chunk))
        self.length += len(chunk)

    def finish(self) -> _Body:
        return _Body(self._pieces, self.length)

    def discard(self) -> None:
        self._pieces = []


class NullSink:
    """Says that everything is durable, at the next turn of the loop, one turn for all that ended meanwhile."""

    def __init__(self) -> None:
        self._waiting: list[tuple[IncomingMessage, Callable[[Outcome], None]]] = []

    def refusal(self) -> Refused | None:
        return None

    def open_body(self) -> _BodyWriter:
        return _BodyWriter()

    def submit(self, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        self._waiting.append((message, done))

    def _commit(self) -> None:
        batch, self._waiting = self._waiting, []
        for message, done in batch:
            message.body.release()
            done(Committed(new_message_id()))


class FixedDirectory:
    """The benchmark's recipients, in a dictionary."""

    def __init__(self) -> None:
        accounts = {m: Account(m) for m in (mailbox(n) for n in range(1, MAX_MESSAGES + 1))}
        self._accounts = {address(n): accounts[mailbox(n)] for n in range(1, MAX_MESSAGES + 1)}

    def resolve(self, recipient: str) -> Account | NotFound:
        found = self._accounts.get(recipient.lower())
        if found is not None:
            return found
        return NotFound.RECIPIENT if recipient.lower().endswith("@" + DOMAIN) else NotFound.DOMAIN

    async def verify(self, login: str, password: str) -> Account | None:
        return None


async def _serve(port: int) -> None:
    from mailarray.smtp.listener import SmtpListener

    settings = SmtpSettings(listen=Listen(host="127.0.0.1", port=port), hostname=DOMAIN)
    listener = SmtpListener(settings, FixedDirectory(), NullSink())
    await listener.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await listener.stop(1.0)


def main() -> None:
    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
