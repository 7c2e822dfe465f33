"""The internal port: a token for everything but health, its own address only, and a sentence when it is taken."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from mailarray.contract.settings import Listen
from mailarray.observe.http import ListenError, bound_port, internal_app, serve


@pytest.fixture
async def url() -> AsyncIterator[str]:
    runner = await serve(internal_app("s3cret", lambda: {"sessions": 7}), Listen(host="127.0.0.1", port=0))
    yield f"http://127.0.0.1:{bound_port(runner)}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/v1/status", None, 401),
        ("/v1/status", "Bearer wrong", 401),
        ("/v1/status", "Basic s3cret", 401),
        ("/v1/status", "Bearer s3cret", 200),
        ("/metrics", None, 401),
        ("/metrics", "Bearer s3cret", 200),
        ("/nothing", None, 401),
        ("/nothing", "Bearer s3cret", 404),
    ],
)
async def test_token(url: str, path: str, authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with aiohttp.ClientSession() as session, session.get(url + path, headers=headers) as response:
        assert response.status == status
        if path == "/v1/status" and status == 200:
            assert await response.json() == {"sessions": 7}


async def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as error:
            await serve(internal_app("t", dict), Listen(host="127.0.0.1", port=port))
    assert str(error.value) == (
        f"port {port} on 127.0.0.1 is in use by another process; stop it, or choose another port"
    )


def test_no_token_is_no_port() -> None:
    with pytest.raises(ValueError, match="need a token"):
        internal_app("", dict)


async def test_readiness_says_why_not() -> None:
    reasons: list[str | None] = [None, "the server is draining"]
    runner = await serve(internal_app("s3cret", dict, lambda: reasons.pop(0)), Listen(host="127.0.0.1", port=0))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{bound_port(runner)}") as http:
        assert (await http.get("/readyz")).status == 200
        response = await http.get("/readyz")
        assert (response.status, await response.text()) == (503, "the server is draining\n")
    await runner.cleanup()
