"""Logs: JSON lines with the caller's fields, rotated, and never a body or a password."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailarray.observe import logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:  # `configure` closes what it replaces; pytest's own handlers stay out of it
        root.removeHandler(handler)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def written() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def lines(path: Path) -> list[dict[str, object]]:
    written()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_json_with_the_fields_of_the_caller(tmp_path: Path) -> None:
    logs.configure("mail-0/smtp", file=tmp_path / "log")
    logging.getLogger("a.b").warning("mirror left", extra={"mirror": "mail-1", "after_seconds": 1.5, "who": ("x", "y")})
    (line,) = lines(tmp_path / "log")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line == {
        "level": "warning",
        "process": "mail-0/smtp",
        "logger": "a.b",
        "message": "mirror left",
        "mirror": "mail-1",
        "after_seconds": 1.5,
        "who": ["x", "y"],
    }


def test_no_body_and_no_password_gets_into_a_log(tmp_path: Path) -> None:
    logs.configure("p", file=tmp_path / "log")
    secret = "Dear Ann, the key is under the mat. " * 100
    log = logging.getLogger("t")
    log.info("odd call", extra={"chunk": secret.encode(), "view": memoryview(secret.encode()), "text": secret})
    log.info("odd call", extra={"password": "swordfish", "Token": "swordfish", "inner": {"authorization": "swordfish"}})
    log.info("%s", secret)
    written()
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "swordfish" not in text
    assert text.count("under the mat") < 100
    first, second, _ = lines(tmp_path / "log")
    assert (first["chunk"], first["view"]) == (f"<{len(secret)} bytes>",) * 2
    assert (second["password"], second["Token"]) == (logs.LEFT_OUT,) * 2


def test_an_exception_is_in_the_file_and_not_on_the_terminal(tmp_path: Path) -> None:
    def fail() -> None:
        try:
            raise ValueError("odd")
        except ValueError:
            logging.getLogger("t").exception("it failed")

    logs.configure("p", file=tmp_path / "log")
    fail()
    assert "Traceback" in str(lines(tmp_path / "log")[0]["exception"])

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure("p", stream=terminal)
    fail()
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ error it failed \(odd\)\n", terminal.getvalue())


def test_files_are_rotated_within_named_limits(tmp_path: Path) -> None:
    logs.configure("p", file=tmp_path / "log", max_bytes=2000, files_kept=2)
    for i in range(200):
        logging.getLogger("t").info("a line", extra={"number": i})
        written()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert lines(tmp_path / "log")[-1]["number"] == 199
