"""One question to a process in a pod, by its internal port: JSON comes back, or nothing does.

Refuses to know what is asked, and when. Used by `reporter` and `loads`.
"""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from mailarray.contract import paths

ANSWER_SECONDS = 2.0


async def ask(session: aiohttp.ClientSession, ip: str, port: int, path: str, token: str) -> dict[str, Any] | None:
    """The JSON object that a GET answers within `ANSWER_SECONDS`; None for whatever else happens."""
    host = f"[{ip}]" if ":" in ip else ip
    headers = {"Authorization": f"{paths.TOKEN_SCHEME} {token}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with session.get(f"http://{host}:{port}{path}", headers=headers, timeout=timeout) as answer:
            if answer.status != 200:
                return None
            said = json.loads(await answer.read())
            return said if isinstance(said, dict) else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
