"""`python -m bench`: the main table; subcommands measure one promise each. Shells only: the work is elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from bench import disk, machine, report, rounds
from bench.load import Load, LoadFailed
from bench.measure import Effort
from bench.peers.aiosmtpd_peer import Aiosmtpd
from bench.peers.mailarray_peer import Mailarray
from bench.peers.peer import Peer
from bench.peers.postfix import PostfixAccept, PostfixDovecot
from bench.peers.protocol import OurProtocol
from bench.peers.smtp_sink import SmtpSink
from bench.processes import NotStarted, adopt_orphans

_KIB = 1024
_LOADS = tuple(Load(size * _KIB, sessions) for size in (4, 50) for sessions in (20, 60))
_FULL = Effort(seconds=4.0, rounds=3)
_QUICK = Effort(seconds=0.2, rounds=1, warm_up=50)
_QUICK_LOADS = (Load(4 * _KIB, 20),)
_ON_REQUEST = ("spread",)  # peers that are run only when they are named
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_VOLATILE = ("tmpfs", "ramfs", "overlay")  # there fsync costs nothing, or is not that of the disk


def peers_by_key() -> dict[str, Peer]:
    """All peers, by the word that chooses them on the command line; in the order of the rounds."""
    return {
        "smtp-sink": SmtpSink(),
        "aiosmtpd": Aiosmtpd(),
        "protocol": OurProtocol(),
        "postfix": PostfixAccept(),
        "postfix-dovecot": PostfixDovecot(),
        "copies2": Mailarray(copies=2),
        "copies1": Mailarray(copies=1),
        "spread": Mailarray(copies=2, spread=True),
    }


class Context:
    """What every subcommand needs: where to put files, and where to print."""

    def __init__(self, parent: Path, results: Path, quick: bool) -> None:
        self.parent = parent
        self.results = results
        self.quick = quick
        self.console = Console(width=None if sys.stdout.isatty() else 160)

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """A folder of its own on the disk that is measured, gone at the end."""
        if (kind := machine.file_system(self.parent)) in _VOLATILE:
            self.console.print(f"[yellow]{self.parent} lies on {kind}: its fsync says nothing about a disk[/]")
        made = Path(tempfile.mkdtemp(prefix="mailarray-bench-", dir=self.parent))
        made.chmod(0o755)  # Postfix and Dovecot enter it under users of their own
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def publish(self, name: str, measured: Callable[[Path], dict[str, Any]]) -> None:
        """Run a subcommand's measurement, print its figures and write them down with the machine they are from."""
        try:
            with self.directory() as made:
                content = {"machine": machine.describe(made), **measured(made)}
        except (NotStarted, LoadFailed, RuntimeError) as error:
            raise click.ClickException(str(error)) from error
        self.console.print_json(data={key: value for key, value in content.items() if key != "machine"})
        self.console.print(f"written to {report.write(name, content, self.results)}", highlight=False)


def _end(number: int, frame: FrameType | None) -> None:
    for each in _ENDINGS:
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the stopping of daemons
    raise SystemExit(128 + number)  # through all `finally`s, so that every daemon is stopped


@click.group(invoke_without_command=True)
@click.option("--directory", type=click.Path(path_type=Path, exists=True), default="/var/tmp", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=report.RESULTS, show_default=True)
@click.option("--quick", is_flag=True, help="Few messages, one round: shows that it works, measures nothing.")
@click.option("--peers", default="", help="Only these, separated by commas; see bench/README.md for the words.")
@click.option("--rounds", "count", type=int, default=_FULL.rounds, show_default=True)
@click.option("--seconds", type=float, default=_FULL.seconds, show_default=True, help="That one round shall last.")
@click.pass_context
def main(
    context: click.Context, directory: Path, results: Path, quick: bool, peers: str, count: int, seconds: float
) -> None:
    """Mailarray and its peers side by side on this machine."""
    adopt_orphans()
    for each in _ENDINGS:
        signal.signal(each, _end)
    place = context.obj = Context(directory, results, quick)
    if context.invoked_subcommand is not None:
        return
    known = peers_by_key()
    words = [word for word in peers.split(",") if word] or [word for word in known if word not in _ON_REQUEST]
    if unknown := [word for word in words if word not in known]:
        raise click.UsageError(f"there is no peer {unknown[0]!r}; there are {', '.join(known)}")
    effort = _QUICK if quick else Effort(seconds=seconds, rounds=count)
    with place.directory() as made:
        latency = disk.fdatasync_latency(made)
        described = machine.describe(made)
        loads = _QUICK_LOADS if quick else _LOADS
        rows, not_run = rounds.run(place.console, [known[word] for word in words], loads, effort, made)
    report.show(place.console, rows, latency, not_run)
    path = report.write("latest", report.document(described, rows, latency, not_run), results)
    place.console.print(f"written to {path}", highlight=False)


@main.command()
@click.option("--seconds", type=float, default=20.0, show_default=True, help="For each of the two latencies.")
@click.pass_obj
def latency(place: Context, seconds: float) -> None:
    """From 250 to visible, and a whole POP3 session, at half the maximum rate."""
    from bench import latency as measured

    seconds, messages = (2.0, 1000) if place.quick else (seconds, 20_000)
    place.publish("latency", lambda made: measured.run(made, seconds, messages))


@main.command()
@click.pass_obj
def big(place: Context) -> None:
    """Memory while 20 messages of 50 MiB arrive at once."""
    from bench import big as measured

    size = 1024 * 1024 if place.quick else measured.SIZE
    place.publish("big", lambda made: measured.run(made, size))


@main.command("one-mailbox")
@click.option("--held", type=int, default=100_000, show_default=True, help="Messages that the full mailbox holds.")
@click.pass_obj
def one_mailbox(place: Context, held: int) -> None:
    """Rate into one full mailbox against an empty one."""
    from bench import one_mailbox as measured

    held, count, messages = (1000, 1, 500) if place.quick else (held, 5, 10_000)
    place.publish("one-mailbox", lambda made: measured.run(made, held, count, messages))


@main.command()
@click.argument("sizes", type=int, nargs=-1)
@click.pass_obj
def rebuild(place: Context, sizes: tuple[int, ...]) -> None:
    """Catalog rebuild from journals with SIZES messages (10000 and 1000000)."""
    from bench import rebuild as measured

    wanted = list(sizes) or ([1000] if place.quick else [10_000, 1_000_000])
    place.publish("rebuild", lambda made: measured.run(made, wanted))


if __name__ == "__main__":
    main()
