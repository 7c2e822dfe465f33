"""The API server, as the operator speaks to it: paths and plain JSON in, plain JSON out. Wraps `kubernetes.aio`.

`kubernetes.aio` brings the connection (kubeconfig, service account with its rotated token, TLS); its generated models
are not used, since building and checking one for each of thousands of objects costs more than all else together.
Every request has a deadline, but for watches, which have one for silence. Refuses nothing and retries nothing: callers
know what a failure means. Used by everything in this package, and by nobody outside of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import configuration as kubernetes_configuration
from kubernetes.aio.client.api_client import ApiClient

REQUEST_SECONDS = 10.0  # the API server's own webhooks may take that long
WATCH_SILENCE_SECONDS = 90.0  # without any line; bookmarks come every minute
READ_BUFFER = 1 << 20  # bytes of a watch held unread
MAX_SENTENCE = 300  # characters of a failure's text that reach a condition

Json = dict[str, Any]
Connection = kubernetes_configuration.Configuration  # address, credentials, TLS

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
METADATA_ONLY = ";as=PartialObjectMetadata{list};g=meta.k8s.io;v=v1"


class ConnectionProblem(Exception):
    """The API server cannot be spoken to; one sentence for a person."""


class ApiError(Exception):
    """The API server's refusal; `status` is HTTP's, 0 when it did not answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message[:MAX_SENTENCE]

    @property
    def conflict(self) -> bool:
        """Somebody else was first: a resource version, a uid, or a name."""
        return self.status == 409

    @property
    def not_found(self) -> bool:
        """The object, or its kind, is not there."""
        return self.status == 404

    @property
    def gone(self) -> bool:
        """The resource version or list token is too old; list again."""
        return self.status == 410

    @property
    def forbidden(self) -> bool:
        """The operator's role does not allow it."""
        return self.status in (401, 403)


async def connect(kubeconfig: Path | None) -> Client:
    """From a kubeconfig, or from the service account of the pod. Raises ConnectionProblem."""
    return Client(await read_connection(kubeconfig))


async def read_connection(kubeconfig: Path | None) -> Connection:
    """Address and credentials of the API server. Raises ConnectionProblem."""
    connection = Connection()
    try:
        if kubeconfig is not None:
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig), client_configuration=connection
            )
        else:
            kubernetes_config.load_incluster_config(client_configuration=connection)  # type: ignore[no-untyped-call]
    except (kubernetes_config.ConfigException, OSError) as error:
        where = f"the kubeconfig {kubeconfig}" if kubeconfig else "this pod's service account"
        hint = "" if kubeconfig else "; outside of a cluster, give --kubeconfig"
        raise ConnectionProblem(f"{where} does not say how to reach the API server: {error}{hint}") from error
    connection.connection_pool_maxsize = 0  # no limit: each watch holds a connection; writers have a limit of their own
    return connection


class Client:
    """See the module."""

    def __init__(self, connection: Connection) -> None:
        connection.client_session_kwargs = {"read_bufsize": READ_BUFFER}
        self.connection = connection
        self._api = ApiClient(connection)

    async def close(self) -> None:
        """Drop all connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, metadata_only: bool = False) -> Json:
        """An object, or a page of a list. Raises ApiError."""
        accept = _accept(metadata_only, "List" if query and "limit" in query else "")
        return await self._request("GET", path, query, accept=accept)

    async def post(self, path: str, body: Json, query: Mapping[str, str] | None = None) -> Json:
        """Create. Raises ApiError, `conflict` when it exists."""
        return await self._request("POST", path, query, body)

    async def put(self, path: str, body: Json) -> Json:
        """Replace; `conflict` when the resource version in it is not the latest. Raises ApiError."""
        return await self._request("PUT", path, None, body)

    async def patch(
        self, path: str, body: Json, content_type: str = MERGE_PATCH, query: Mapping[str, str] | None = None
    ) -> Json:
        """Change. Raises ApiError."""
        return await self._request("PATCH", path, query, body, content_type=content_type)

    async def delete(self, path: str, body: Json) -> Json:
        """Delete, with preconditions in the body. Raises ApiError."""
        return await self._request("DELETE", path, None, body)

    async def watch(
        self, path: str, query: Mapping[str, str], *, metadata_only: bool = False
    ) -> AsyncIterator[tuple[str, Json]]:
        """Changes as they come: (ADDED | MODIFIED | DELETED | BOOKMARK, object). Ends when it is cut, or silent.

        Raises ApiError: `gone` when the resource version is too old, status 0 when it cannot be reached.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=WATCH_SILENCE_SECONDS)
        accept = _accept(metadata_only, "")
        try:
            response = await self._open("GET", path, {**query, "watch": "true"}, None, JSON, accept, timeout)
            async with response:
                if response.status != 200:
                    raise _error(response.status, await response.read())
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _error(int(event["object"].get("code") or 500), json.dumps(event["object"]).encode())
                    yield event["type"], event["object"]
        except aiohttp.SocketTimeoutError:
            return  # a watch of what never changes; whether the server lives, the next one tells
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiError(0, "Unreachable", _unreachable(error)) from error

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Json:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
                response = await self._open(method, path, query, body, content_type, accept, timeout)
                async with response:
                    content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", _unreachable(error)) from error
        if not 200 <= response.status < 300:
            raise _error(response.status, content)
        try:
            answer: Json = json.loads(content)
        except ValueError as error:
            raise ApiError(0, "NotJson", f"the API server answered {path} with something that is not JSON") from error
        return answer

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        accept: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "mailarray-operator"}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self.connection.host}{path}" + (f"?{urlencode(query)}" if query else "")
        send: Any = self._api.rest_client.request  # untyped
        answer = await send(method, url, headers, body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response


def _accept(metadata_only: bool, of: str) -> str:
    return JSON + METADATA_ONLY.format(list=of) if metadata_only else JSON


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: an object may be larger than any buffer."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line


def _error(status: int, content: bytes) -> ApiError:
    try:
        said: Any = json.loads(content)
        return ApiError(status, str(said.get("reason", "")), str(said.get("message", "")) or f"HTTP {status}")
    except (ValueError, AttributeError):
        return ApiError(status, "", f"HTTP {status}: {content[:MAX_SENTENCE].decode('utf-8', 'replace')}")


def _unreachable(error: BaseException) -> str:
    said = str(error) or type(error).__name__
    return f"the API server does not answer: {said}"
