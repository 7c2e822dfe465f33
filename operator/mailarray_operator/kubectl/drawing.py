"""Tables, bars and colours: the look of every command. Colours only on a terminal; without one, wide plain text.

Draws what it is given and decides nothing; time and Kubernetes are unknown here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

DASH = "–"
FILE_WIDTH = 160  # columns where there is no terminal to ask
BAR = 10  # characters of a progress bar
SHORT_ID = 8  # digits of an id that tell volumes apart well enough for a person

_STYLES = {
    "Serving": "green", "InSync": "green", "True": "green", "Ready": "green",
    "Joining": "cyan", "Draining": "yellow", "Rebuilding": "yellow", "Drained": "dim", "Behind": "yellow",
    "Lost": "bold red", "Broken": "bold red", "Away": "red", "Failed": "red", "False": "red", "Stopping": "yellow",
}  # fmt: skip


def console() -> Console:
    """For standard output."""
    made = Console(highlight=False, emoji=False, markup=False)
    return made if made.is_terminal else Console(width=FILE_WIDTH, highlight=False, emoji=False, markup=False)


def word(text: str) -> Text:
    """A state's name in its colour."""
    return Text(text or DASH, style=_STYLES.get(text, ""))


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """As kubectl's, without lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", show_edge=False)
    aligned = frozenset(right)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in aligned else "left"
        made.add_column(column, justify=justify, overflow="fold")
    return made


def bar(percent: int | None, time_left: str = "") -> Text:
    """`████▌····· 45 %, 25m left`."""
    if percent is None:
        return Text(DASH)
    full = round(BAR * max(0, min(100, percent)) / 100)
    return Text.assemble(("█" * full, "yellow"), ("·" * (BAR - full), "dim"), f" {percent} %{takes(time_left)}")


def takes(time_left: str) -> str:
    """`, 25m left`, to follow some progress."""
    return f", {time_left} left" if time_left else ""


def size(value: object) -> str:
    """Bytes for people."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return DASH
    number = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def short(identifier: str) -> str:
    """The first digits of an id."""
    return identifier[:SHORT_ID] or DASH


def note(name: str, text: str) -> Text:
    """A line below a table, about one of its rows."""
    return Text.assemble(("! ", "bold red"), (name, "bold"), f": {text}")
