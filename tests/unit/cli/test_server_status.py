"""`mailarray server-status` against two pretended processes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailarray.cli import main as cli_main

TOKEN = "secret"


class Process(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        right = self.path == "/v1/status" and self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"server": "mail-3"}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Process)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def settings_file(folder: Path, writer: int, sidecar: int, token: str = TOKEN) -> Path:
    (folder / "token").write_text(token + "\n", encoding="ascii")
    file = folder / "server.json"
    file.write_text(
        json.dumps(
            {
                "cluster": "example",
                "server": "{pod}",
                "volume": "/v",
                "run_directory": "/r",
                "smtp": {"listen": {"host": "0.0.0.0", "port": 2525}, "hostname": "mx-{ordinal}.mail.example"},
                "writer": {"host": "0.0.0.0", "port": writer},
                "sidecar": {"host": "127.0.0.1", "port": sidecar},
                "token_file": str(folder / "token"),
                "mirroring_table_file": "/t",
                "storage": {},
                "catalog": {"url": "sqlite:////c"},
                "directory": {"domains": [], "accounts_file": "/a"},
            }
        ),
        encoding="utf-8",
    )
    return file


def run(capsys: pytest.CaptureFixture[str], file: Path) -> tuple[object, dict[str, object]]:
    with pytest.raises(SystemExit) as end:
        cli_main.main(["server-status", "--settings", str(file), "--name", "mail-3"])
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return end.value.code, answer


def test_both_processes_answer_under_the_pods_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, port: int
) -> None:
    code, answer = run(capsys, settings_file(tmp_path, port, port))
    one = {"server": "mail-3"}
    assert (code, answer) == (0, {"server": "mail-3", "writer": one, "sidecar": one, "errors": {}})


def test_one_that_does_not_answer_is_null_with_a_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, port: int
) -> None:
    code, answer = run(capsys, settings_file(tmp_path, 1, port))
    assert code == 0
    assert answer["writer"] is None and answer["sidecar"] == {"server": "mail-3"}
    assert "refused" in str(answer["errors"])


def test_none_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path, port: int) -> None:
    code, answer = run(capsys, settings_file(tmp_path, port, port, token="wrong"))
    assert (code, answer["writer"], answer["sidecar"]) == (1, None, None)
