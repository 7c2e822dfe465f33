"""A theatre: a pretended kubectl in PATH, and the plugin run in this process against it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailarray_operator.kubectl import main as plugin

HERE = Path(__file__).parent
WRITE_GOLDEN = "MAILARRAY_WRITE_GOLDEN"  # set to 1: golden outputs are written instead of compared

Play = tuple[str, str] | tuple[str, str, str, int]


@dataclass
class Theatre:
    """What was recorded, what was asked, and what a person saw."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def record(self, *plays: Play) -> None:
        """(pattern of the arguments, output), or (pattern, output, error, exit code)."""
        whole = [(*play, "", 0) if len(play) == 2 else play for play in plays]
        (self.folder / "plays.json").write_text(json.dumps(whole), encoding="utf-8")

    @property
    def calls(self) -> list[dict[str, str]]:
        """Everything that kubectl was asked."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def run(self, *arguments: str) -> str:
        """A transcript: the command, what it said, and its exit code."""
        with pytest.raises(SystemExit) as end:
            plugin.main(list(arguments))
        said = self.capsys.readouterr()
        lines = [f"$ kubectl mailarray {' '.join(arguments)}"]
        lines += [line.rstrip() for line in said.out.splitlines()]
        lines += [f"stderr: {line}" for line in said.err.splitlines()]
        return "\n".join([*lines, f"exit code {end.value.code}"]) + "\n"


@pytest.fixture
def theatre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Theatre:
    program = tmp_path / "kubectl"
    program.write_text(f"#!{sys.executable} -IS\n" + (HERE / "fake_kubectl.py").read_text(encoding="utf-8"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "160")
    return Theatre(tmp_path, capsys)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compare with golden/<name of the test>.txt."""
    file = HERE / "golden" / f"{request.node.name.removeprefix('test_').replace('[', '-').rstrip(']')}.txt"

    def compare(transcript: str) -> None:
        if os.environ.get(WRITE_GOLDEN) == "1":
            file.write_text(transcript, encoding="utf-8")
        assert transcript == file.read_text(encoding="utf-8")

    return compare
