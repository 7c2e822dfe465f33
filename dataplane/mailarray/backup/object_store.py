"""Targets in an object store, by obstore: the only file that knows it.

Credentials, region and endpoint come from the environment as the store's other tools have them (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`, ...). Object stores show an object whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from mailarray.backup.store import PIECE, NotThere, TargetError

PART = 8 * 1024 * 1024  # bytes of one part of a multipart upload; S3 allows 10,000 of them
PARTS_AT_ONCE = 4  # 32 MiB of memory
RETRY_SECONDS = 60.0  # for a request that the store answers with 5xx or not at all
DELETED_AT_ONCE = 1000  # what S3 takes in one request


class ObjectStore:
    """A `Store`."""

    def __init__(self, url: str, endpoint: str | None) -> None:
        """Raises TargetError."""
        self._url = url
        options: dict[str, Any] = {}
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint and url.startswith("s3"):
            options["endpoint"] = endpoint
            if endpoint.startswith("http://"):
                options["client_options"] = {"allow_http": True}
        with self._told():
            self._store: Any = from_url(
                url, retry_config={"retry_timeout": timedelta(seconds=RETRY_SECONDS), "max_retries": 5}, **options
            )

    async def put(self, name: str, file: Path) -> None:
        """See `Store`."""
        with self._told():
            await obstore.put_async(self._store, name, file, chunk_size=PART, max_concurrency=PARTS_AT_ONCE)

    async def put_bytes(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with self._told():
            await obstore.put_async(self._store, name, data)

    async def read(self, name: str) -> bytes:
        """See `Store`."""
        with self._told():
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())

    async def pieces(self, name: str) -> AsyncIterator[bytes]:
        """See `Store`."""
        with self._told():
            answer = await obstore.get_async(self._store, name)
            async for piece in answer.stream(min_chunk_size=PIECE):
                yield bytes(piece)

    async def list(self, folder: str) -> dict[str, int]:
        """See `Store`."""
        with self._told():
            found = obstore.list(self._store, f"{folder}/", chunk_size=1000)
            return {item["path"]: item["size"] async for page in found for item in page}

    async def delete(self, names: Sequence[str]) -> None:
        """See `Store`."""
        for start in range(0, len(names), DELETED_AT_ONCE):
            try:
                with self._told():
                    await obstore.delete_async(self._store, list(names[start : start + DELETED_AT_ONCE]))
            except NotThere:
                await asyncio.sleep(0)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotThere(f"{self._url}: {_first_line(error)}") from None
        except (BaseError, ValueError, OSError) as error:
            raise TargetError(f"{self._url} cannot be used: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """The library's texts go on with the whole answer of the server."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
