"""The `mailarray` command: groups, and what a person sees when something is wrong.

A known error is one sentence on standard error and exit code 1 (2 for usage). An unexpected one is a sentence too,
and the traceback goes to a log file that the sentence names. Commands import what they need when they run, so that
`mailarray --help` is quick and a broken part does not take the others along.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from mailarray import __version__
from mailarray.cli.messages import sentence

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_COMMANDS = {
    "up": ("mailarray.cli.up", "up", "Run an array on this machine."),
    "status": ("mailarray.cli.status", "status", "Show servers, mirrors, segments and lag of a running array."),
    "account": ("mailarray.cli.account", "account", "Add, change, list and remove accounts."),
    "run": ("mailarray.cli.run", "run", "Run one process of an array (called by launchers)."),
    "journal": ("mailarray.cli.journal", "journal", "Look into a volume with nothing else running."),
    "catalog": ("mailarray.cli.catalog", "catalog", "Rebuild or migrate the catalog."),
    "locate": ("mailarray.cli.locate", "locate", "Show where a message lies."),
    "missing": ("mailarray.cli.missing", "missing", "Name the mail that no volume holds any more."),
    "backup": ("mailarray.cli.backup", "backup", "Back up mail, flags and accounts; look after backups."),
    "restore": ("mailarray.cli.restore", "restore", "Bring a backup back into an empty array."),
    "export": ("mailarray.cli.export", "export", "Write mailboxes as Maildir or mbox."),
    "server-status": ("mailarray.cli.server_status", "server_status", "Ask the two processes of one server."),
    "volume": ("mailarray.cli.volume", "volume", "Say what became of a volume."),
}


class _LazyGroup(click.Group):
    """Knows its commands by name, imports them when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mailarray")
def cli() -> None:
    """One large mail server out of many ordinary servers that share nothing."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        result = cli.main(args=arguments, prog_name="mailarray", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            error.show()
        else:
            click.echo(f"mailarray: {error.format_message()}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # `mailarray journal list | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - kept until the process ends
        code = EXIT_FAILED
    except Exception as error:
        click.echo(f"mailarray: {sentence(error)}", err=True)
        code = EXIT_FAILED
    sys.exit(code)
