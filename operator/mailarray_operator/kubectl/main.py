"""`kubectl-mailarray`: the commands, and what a person sees when something is wrong.

A known error is one sentence on standard error and exit code 1 (2 for usage), as with `mailarray`.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

import click

from mailarray_operator.kubectl.account import account
from mailarray_operator.kubectl.drain import drain
from mailarray_operator.kubectl.locate import locate
from mailarray_operator.kubectl.mirrors import mirrors
from mailarray_operator.kubectl.servers import servers
from mailarray_operator.kubectl.status import status
from mailarray_operator.kubectl.targets import target_options

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def _version() -> str:
    try:
        return metadata.version("mailarray")
    except metadata.PackageNotFoundError:  # a checkout that nobody installed
        return "unknown"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="kubectl mailarray")
@target_options
def cli() -> None:
    """A mail server on Kubernetes: look at it, drain servers, manage accounts, find messages."""


for _command in (status, servers, mirrors, drain, account, locate):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        result = cli.main(args=arguments, prog_name="kubectl mailarray", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        click.echo("nothing more is done", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            error.show()
        else:
            click.echo(f"kubectl mailarray: {error.format_message()}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # `kubectl mailarray servers | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - kept until the process ends
        code = EXIT_FAILED
    sys.exit(code)
