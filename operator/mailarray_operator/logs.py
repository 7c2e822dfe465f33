"""Structured logs, one JSON object a line on standard error, in the shape that the data plane's have.

The operator imports nothing of the data plane but the contract, so this is the small part of it that a process without
traffic needs. Refuses to print what is named like a credential. Called once, by `main`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

MAX_FIELD = 1000  # characters
MAX_TRACEBACK = 20000  # characters
SECRET_FIELDS = frozenset({"password", "token", "authorization", "secret", "data", "credentials"})
LEFT_OUT = "[left out]"
PROCESS = "operator"

_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_KOPF_ATTRIBUTES = frozenset({"k8s_skip", "k8s_ref", "settings"})  # whole objects that kopf hangs on its records


def _printable(name: str, value: object) -> Any:
    if name.lower() in SECRET_FIELDS:
        return LEFT_OUT
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = str(value)
    return text if len(text) <= MAX_FIELD else f"{text[:MAX_FIELD]}… ({len(text)} characters)"


class JsonFormatter(logging.Formatter):
    """time, level, process, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z",
            "level": record.levelname.lower(),
            "process": PROCESS,
            "logger": record.name,
            "message": _printable("message", record.getMessage()),
        }
        for name, value in record.__dict__.items():
            if name not in _OWN_ATTRIBUTES and name not in _KOPF_ATTRIBUTES:
                line.setdefault(name, _printable(name, value))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-MAX_TRACEBACK:]
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all logging to standard error; replaces what was configured before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("kopf").setLevel(logging.WARNING if level.upper() != "DEBUG" else logging.DEBUG)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
