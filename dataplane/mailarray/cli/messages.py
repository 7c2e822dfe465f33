"""What a person is told of an error: one sentence. The traceback goes to a file that the sentence names."""

from __future__ import annotations

import os
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path


def is_sentence(error: Exception) -> bool:
    """Whether the error's text is for a person already: the project's own errors, and the system's."""
    return type(error).__module__.startswith("mailarray.") or (isinstance(error, OSError) and bool(error.strerror))


def sentence(error: Exception) -> str:
    """What a person is told of an error."""
    if not is_sentence(error):
        return f"unexpected {type(error).__name__}; the details are in {_write_traceback(error)}"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


def _write_traceback(error: Exception) -> Path:
    text = "".join(traceback.format_exception(error))
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    descriptor, name = tempfile.mkstemp(prefix=f"mailarray-{stamp}-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)
