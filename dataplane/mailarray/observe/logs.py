"""Structured logs: a constant message and fields, as JSON lines in a file, as plain text on a terminal.

Every process calls `configure` once. Times are UTC. Refuses to print what must never be in a log, whatever a caller
hands over by mistake: bytes (bodies are bytes everywhere) appear as their length, fields named like a credential are
left out, long texts are cut.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec

LOG_FILE_SIZE = 16 << 20  # bytes; a file that a person can still open in an editor
LOG_FILES_KEPT = 4  # rotated files beside the current one: at most 80 MiB a process
FLUSH_SECONDS = 0.25  # between two writes of a log file; a killed process loses at most these lines, and no warning
FLUSH_LINES = 500  # lines kept in memory at most
MAX_FIELD = 1000  # characters of one field; enough for any address or error, too little for a body
SECRET_FIELDS = frozenset({"password", "token", "authorization", "secret", "body", "credentials"})
LEFT_OUT = "[left out]"

_quick: Callable[[str, str, dict[str, Any]], None] | None = None  # set while logs go to a file
_encode = msgspec.json.Encoder(enc_hook=str).encode

# Nobody reads these fields, and looking them up for every line costs more than formatting it (Python's logging
# HOWTO, "Optimization").
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False

_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
MAX_TRACEBACK = 20000  # characters


def _printable(name: str, value: object) -> Any:
    if name.lower() in SECRET_FIELDS:
        return LEFT_OUT
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_printable(name, item) for item in list(value)[:100]]
    if isinstance(value, dict):
        return {str(key): _printable(str(key), item) for key, item in list(value.items())[:100]}
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_FIELD else f"{text[:MAX_FIELD]}… ({len(text)} characters)"


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a caller gave through `extra`, ready to print."""
    return {k: _printable(k, v) for k, v in record.__dict__.items() if k not in _OWN_ATTRIBUTES}


class BatchingFileHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that is written every FLUSH_SECONDS instead of at every line; at once from a warning on.

    One line a message is worth having, and a write and a stat for each would cost more than storing the message.
    """

    def __init__(self, file: Path, max_bytes: int, files_kept: int) -> None:
        super().__init__(file, maxBytes=max_bytes, backupCount=files_kept, encoding="utf-8")
        self._lines: list[str] = []
        self._stopped = threading.Event()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record and keep the line."""
        try:
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)
        if record.levelno >= logging.WARNING or len(self._lines) >= FLUSH_LINES:
            self.flush()

    def quick(self, logger: str, message: str, values: dict[str, Any]) -> None:
        """A line without a record; see `traffic`."""
        formatter = self.formatter
        assert isinstance(formatter, JsonFormatter)
        self._lines.append(formatter.line(time.time(), "info", logger, message, values))
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was kept."""
        with self.lock or contextlib.nullcontext():
            if not self._lines:
                return
            text = "\n".join(self._lines) + "\n"
            self._lines = []
            try:
                if self.stream is None:
                    self.stream = self._open()
                if self.stream.tell() + len(text) > self.maxBytes > 0:
                    self.doRollover()
                self.stream.write(text)
                self.stream.flush()
            except OSError:
                pass  # a full disk stops the log, not the mail

    def close(self) -> None:
        """Write the rest and close."""
        self._stopped.set()
        self.flush()
        super().close()

    def _write_on(self) -> None:
        while not self._stopped.wait(FLUSH_SECONDS):
            self.flush()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, process, and the record's own fields."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process
        self._second = 0
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        values = fields(record)
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)[-MAX_TRACEBACK:]
        message = _printable("message", record.getMessage())
        return self.line(record.created, record.levelname.lower(), record.name, message, values)

    def line(self, created: float, level: str, logger: str, message: str, values: dict[str, Any]) -> str:
        """One line; `created` is seconds since 1970, `values` are printable."""
        second = int(created)
        if second != self._second:
            self._second, self._stamp = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line: dict[str, Any] = {
            "time": f"{self._stamp}.{int((created - second) * 1000):03}Z",
            "level": level,
            "process": self._process,
            "logger": logger,
            "message": message,
        }
        for name, value in values.items():
            line.setdefault(name, value)
        return _encode(line).decode("utf-8", "replace")


class PlainFormatter(logging.Formatter):
    """For people: `12:00:01 warning message name=value`; no tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%SZ")
        rest = " ".join(f"{name}={value}" for name, value in fields(record).items())
        error = f" ({record.exc_info[1]})" if record.exc_info and record.exc_info[1] else ""
        return f"{time} {record.levelname.lower()} {record.getMessage()}{' ' if rest else ''}{rest}{error}"


def traffic(logger: logging.Logger, message: str, values: dict[str, Any]) -> None:
    """A line for each message that passes, at INFO: as `logger.info(message, extra=values)`, for a tenth of the CPU.

    The caller asks `logger.isEnabledFor(INFO)` once, and gives only short printable values, never bodies or secrets.
    """
    if _quick is None:
        logger.info(message, extra=values)
    else:
        _quick(logger.name, message, values)


def configure(
    process: str,
    *,
    file: Path | None = None,
    level: int = logging.INFO,
    stream: TextIO | None = None,
    max_bytes: int = LOG_FILE_SIZE,
    files_kept: int = LOG_FILES_KEPT,
) -> None:
    """Send all logging to a rotated JSON file; without a file, to `stream` (standard error), plain on a terminal.

    Replaces what was configured before. Raises OSError when the file cannot be opened.
    """
    global _quick
    handler: logging.Handler
    _quick = None
    if file is not None:
        handler = BatchingFileHandler(file, max_bytes, files_kept)
        handler.setFormatter(JsonFormatter(process))
        _quick = handler.quick
    else:
        out = stream or sys.stderr
        handler = logging.StreamHandler(out)
        handler.setFormatter(PlainFormatter() if out.isatty() else JsonFormatter(process))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # a line for each mirror batch would drown the rest
    logging.raiseExceptions = False  # a full disk stops the log, not the mail
