"""`mailarray status`: asks the status port of a running array."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import click
from rich.console import Console

DEFAULT_URL = "http://127.0.0.1:2180"
ANSWER_SECONDS = 5.0
FILE_WIDTH = 140  # columns where there is no terminal to ask


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Where `mailarray up` shows its status.")
def status(output: str, url: str) -> int:
    """Show servers, mirrors, segments, lag and under-replicated count; exit code 1 while not all serve."""
    answer = _fetch(url)
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
    else:
        from mailarray.local.view import draw

        console = Console()
        if not console.is_terminal:
            console = Console(width=FILE_WIDTH)
        console.print(draw(answer, width=console.width))
    return 0 if answer.get("ready") else 1


def _fetch(url: str) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url} is not a URL; write one like {DEFAULT_URL}")
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/v1/status", timeout=ANSWER_SECONDS) as response:
            answer = json.load(response)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise click.ClickException(f"no array answers at {url} ({reason}); start one with `mailarray up`") from None
    except ValueError:
        raise click.ClickException(
            f"{url} answers, but not as an array does; give its status port with --url"
        ) from None
    if not isinstance(answer, dict):
        raise click.ClickException(f"{url} answers, but not as an array does; give its status port with --url")
    return answer
