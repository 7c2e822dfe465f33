"""The command line's manners: one sentence, the right exit code, no traceback."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import click
import pytest

from mailarray.cli import main as cli_main
from mailarray.contract.settings import SettingsError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli_main.main(list(arguments))
    said = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, said.out, said.err


def command_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def broken() -> None:
        raise error

    module = types.ModuleType("broken_command")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_command", module)
    monkeypatch.setitem(cli_main._COMMANDS, "broken", ("broken_command", "broken", "For tests."))


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SettingsError("the port is odd"), 1, "mailarray: the port is odd\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.json"),
            1,
            "mailarray: x.json: No such file or directory\n",
        ),
        (click.ClickException("do that instead"), 1, "mailarray: do that instead\n"),
        (KeyboardInterrupt(), 130, "\n"),  # after the terminal's own ^C
    ],
)
def test_known_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    command_that_raises(monkeypatch, error)
    assert run(capsys, "broken") == (code, "", sentence)


def test_an_unexpected_error_names_the_file_with_its_details(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that_raises(monkeypatch, ZeroDivisionError("odd"))
    code, _, said = run(capsys, "broken")
    assert code == 1
    assert said.startswith("mailarray: unexpected ZeroDivisionError; the details are in ") and said.count("\n") == 1
    file = Path(said.split()[-1])
    try:
        assert "Traceback" in file.read_text(encoding="utf-8")
        assert file.stat().st_mode & 0o077 == 0
    finally:
        file.unlink()


def test_help_knows_all_commands_and_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "--help")
    assert code == 0
    assert all(
        f"  {name} " in said for name in ("up", "status", "account", "run", "journal", "catalog", "locate", "volume")
    )
    assert run(capsys, "up")[0] == 2
    assert run(capsys, "nothing")[0] == 2


@pytest.mark.parametrize("command", ["catalog rebuild", "catalog migrate"])
def test_commands_on_an_array_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    code, _, said = run(capsys, *command.split(), "--data", str(tmp_path))
    assert (code, said) == (1, f"mailarray: {tmp_path} holds no array; start `mailarray up` once, or give --data\n")
