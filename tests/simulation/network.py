"""The network between processes: production clients on one side, production handlers on the other, and no sockets.

Stands in for three things: aiohttp's client (`Session`), the writer's own client (`Connection`, mirroring/peer.py) and
the datagrams from a writer to its sidecar (`Sockets`). What arrives is handled by the routes of the process that has
the address by then, in that process' name.

A request or its answer may be late, lost or delivered twice (a client that repeats it), and requests of different
connections overtake each other. Who is cut off hears nothing; a process that is gone refuses; one that dies over a
request resets the connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import aiohttp

from mailarray.mirroring.peer import PeerError, Response, explain
from tests.simulation.loop import NOBODY, PROCESS

if TYPE_CHECKING:
    from tests.simulation.servers import Process
    from tests.simulation.world import World

TOKEN = "token"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
Handler = Callable[["Request"], Awaitable[Any]]


class Request:
    """As much of aiohttp's request as the handlers look at."""

    __slots__ = ("_body", "content", "content_length", "headers", "match_info", "method", "query", "rel_url")

    def __init__(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        path, _, query = target.partition("?")
        self.method = method
        self.rel_url = SimpleNamespace(raw_path=path)
        self.query = dict(parse_qsl(query)) if query else {}
        self.headers = AUTHORIZATION if headers is None else AUTHORIZATION | headers
        self.content_length = len(body)
        self.content = self
        self.match_info: dict[str, str] = {}
        self._body = body

    async def readexactly(self, count: int) -> bytes:
        return self._body

    async def text(self) -> str:
        return self._body.decode()

    async def json(self) -> Any:
        return json.loads(self._body)


class Exchange:
    """One request and its answer."""

    __slots__ = ("address", "answer", "client", "request", "server")

    def __init__(self, client: Process, address: str, request: Request, answer: asyncio.Future[Response]) -> None:
        self.client = client
        self.address = address
        self.request = request
        self.answer = answer
        self.server: Process | None = None


class Network:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop = world.loop
        self.listening: dict[str, Process] = {}
        self.cut: set[frozenset[str]] = set()  # pairs of machines that cannot reach each other
        self.loss = 0.0  # of each request, and of each answer
        self.twice = 0.0
        self.late: dict[str, float] = {}  # seconds more for what is sent from that machine

    def reaches(self, one: str, other: str) -> bool:
        return one == other or frozenset((one, other)) not in self.cut

    def ask(self, address: str, request: Request, timeout: float) -> asyncio.Future[Response]:
        """The future raises OSError, or TimeoutError after so many seconds."""
        loop, world = self._loop, self._world
        answer: asyncio.Future[Response] = loop.create_future()
        client: Process = PROCESS.get()
        loop.call_later(timeout, _expire, answer, context=NOBODY)
        exchange = Exchange(client, address, request, answer)
        dice = world.dice
        if dice.random() >= self.loss:
            delay = world.latency() + self.late.get(client.machine, 0.0)
            loop.call_later(delay, self._arrive, exchange, context=NOBODY)
        elif world.detail:
            world.note(f"lost: {request.method} {request.rel_url.raw_path}")
        if self.twice and request.method != "GET" and dice.random() < self.twice:
            loop.call_later(
                world.latency() + dice.random() * dice.choice((0.1, 1.0)), self._arrive, exchange, context=NOBODY
            )
        return answer

    def _arrive(self, exchange: Exchange) -> None:
        world = self._world
        process = self.listening.get(exchange.address)
        machine = exchange.address.partition(":")[0]
        if not self.reaches(exchange.client.machine, machine) or not world.servers[machine].power:
            return
        if process is None or not process.alive:
            self._later(exchange, ConnectionRefusedError("refused"))
            return
        if world.detail:
            request = exchange.request
            world.note(f"{exchange.client.name} -> {process.name}: {request.method} {request.rel_url.raw_path}")
        exchange.server = process
        process.exchanges[exchange] = None
        task = self._loop.create_task(_handle(process.handler, exchange.request), context=process.context)
        task.add_done_callback(lambda task: self._answered(exchange, task), context=NOBODY)

    def _answered(self, exchange: Exchange, task: asyncio.Task[Any]) -> None:
        process = exchange.server
        assert process is not None
        process.exchanges.pop(exchange, None)
        if task.cancelled() or task.exception() is not None:
            self._later(exchange, ConnectionResetError("reset"))
        elif self._world.dice.random() >= self.loss:
            self._later(exchange, task.result())

    def reset(self, process: Process) -> None:
        """It died, its machine lives: whoever waits for it hears so."""
        for exchange in process.exchanges:
            self._later(exchange, ConnectionResetError("reset"))
        process.exchanges.clear()

    def _later(self, exchange: Exchange, outcome: Any) -> None:
        self._loop.call_later(self._world.latency(), self._deliver, exchange, outcome, context=NOBODY)

    def _deliver(self, exchange: Exchange, outcome: Any) -> None:
        answer = exchange.answer
        if answer.done() or not self.reaches(exchange.client.machine, exchange.address.partition(":")[0]):
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
            answer.exception()  # seen: nobody may wait any more
        else:
            answer.set_result(outcome)


async def _handle(handler: Handler, request: Request) -> Response:
    response = await handler(request)
    return Response(response.status, response.body or b"")


def _expire(answer: asyncio.Future[Response]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
        answer.exception()


class Connection:
    """In the place of mirroring.peer.PeerConnection: one request at a time, any error closes it."""

    network: Network  # of the world that runs

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._open = False
        self._answer: asyncio.Future[Response] | None = None
        self._turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self._turn.locked() or self._answer is not None

    def send_now(
        self, method: str, target: str, timeout: float, body: Iterable[bytes], length: int
    ) -> asyncio.Future[Response] | None:
        if not self._open or self.busy:
            return None
        return self._send(method, target, timeout, body)

    def _send(self, method: str, target: str, timeout: float, body: Iterable[bytes]) -> asyncio.Future[Response]:
        answer = self.network.ask(self._address, Request(method, target, b"".join(body)), timeout)
        self._answer = answer
        answer.add_done_callback(self._done)
        return answer

    def _done(self, answer: asyncio.Future[Response]) -> None:
        if self._answer is answer:
            self._answer = None
            if answer.cancelled() or answer.exception() is not None:
                self._open = False

    async def request(
        self,
        method: str,
        target: str,
        timeout: float,
        body: Iterable[bytes] = (),
        length: int = 0,
        last_timeout: float | None = None,
    ) -> Response:
        async with self._turn:
            while self._answer is not None:
                await asyncio.wait([self._answer])
            try:
                response = await self._send(method, target, last_timeout or timeout, body)
            except OSError as error:
                self._open = False
                raise explain(error, timeout) from error
            except BaseException:
                self.close()
                raise
            self._open = True
            return response

    def close(self) -> None:
        self._open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionAbortedError("closed"))
            self._answer.exception()


class Reply:
    """As much of aiohttp's client response as production looks at."""

    def __init__(self, response: Response) -> None:
        self.status = response.status
        self._body = response.body
        self.content = self

    async def read(self) -> bytes:
        return self._body

    async def json(self) -> Any:
        return json.loads(self._body)

    def raise_for_status(self) -> None:
        if self.status >= 400:
            raise aiohttp.ClientError(f"status {self.status}")

    async def iter_any(self) -> Any:
        yield self._body


class Call:
    """`async with session.get(...) as response`."""

    def __init__(self, answer: Callable[[], asyncio.Future[Response]]) -> None:
        self._ask = answer

    async def __aenter__(self) -> Reply:
        try:
            return Reply(await self._ask())
        except TimeoutError:
            raise
        except OSError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error

    async def __aexit__(self, *_: object) -> None:
        return


class Session:
    """In the place of aiohttp.ClientSession."""

    network: Network

    def __init__(self, timeout: Any = None, **_: Any) -> None:
        self._timeout = timeout

    def request(self, method: str, url: Any, *, timeout: Any = None, headers: Any = None, json: Any = None) -> Call:
        address, _, path = str(url).removeprefix("http://").partition("/")
        body = b"" if json is None else _dump(json)
        limit = timeout or self._timeout
        seconds = (limit.total or limit.sock_read or 10.0) if limit is not None else 10.0
        return Call(lambda: self.network.ask(address, Request(method, "/" + path, body, headers), seconds))

    def get(self, url: Any, **more: Any) -> Call:
        return self.request("GET", url, **more)

    def post(self, url: Any, **more: Any) -> Call:
        return self.request("POST", url, **more)

    async def close(self) -> None:
        return


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


AIOHTTP = SimpleNamespace(
    ClientSession=Session,
    ClientTimeout=aiohttp.ClientTimeout,
    ClientError=aiohttp.ClientError,
    ClientConnectionError=aiohttp.ClientConnectionError,
    TCPConnector=lambda **_: None,
    DummyCookieJar=lambda: None,
)


class Socket:
    """A UNIX datagram socket; what nobody reads is lost."""

    sockets: Sockets

    def __init__(self, *_: object) -> None:
        self.reader: Any = None
        self._queue: list[bytes] = []
        self.last = 0.0  # when the newest datagram arrives
        self._process = PROCESS.get()

    def bind(self, path: str) -> None:
        self.sockets.bound[path] = self

    def sendto(self, data: bytes, path: str) -> None:
        self.sockets.send(data, path)

    def arrive(self, data: bytes) -> None:
        if self._process.alive and self.reader is not None:
            self._queue.append(data)
            callback, context = self.reader
            asyncio.get_running_loop().call_soon(
                callback[0] if isinstance(callback, tuple) else callback, context=context
            )

    def recv(self, count: int) -> bytes:
        if not self._queue:
            raise BlockingIOError
        return self._queue.pop(0)

    def close(self) -> None:
        self.reader = None


class Sockets:
    """In the place of the module `socket`."""

    AF_UNIX = SOCK_DGRAM = SOCK_NONBLOCK = SOCK_CLOEXEC = 0

    def __init__(self, world: World) -> None:
        self._world = world
        self.bound: dict[str, Socket] = {}
        self.socket = Socket

    def send(self, data: bytes, path: str) -> None:
        world = self._world
        there = self.bound.get(path)
        if there is None or not there._process.alive:
            raise ConnectionRefusedError
        if world.dice.random() >= world.network.loss:
            there.last = max(there.last, world.loop.now + world.latency())  # datagrams of one machine keep their order
            world.loop.call_at(there.last, there.arrive, data, context=NOBODY)


__all__ = ["AIOHTTP", "Connection", "Network", "PeerError", "Request", "Session", "Sockets"]
