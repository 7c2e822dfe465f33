"""What a person sees: the array as a table that is drawn anew each second, or as plain lines.

Draws the JSON object of `array_status.py` and nothing else, so `mailarray status` shows the same picture from
another process. Missing figures are a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mailarray.contract.server_names import host_of
from mailarray.contract.time_left import told
from mailarray.local.array_status import SIDECAR, SMTP

DASH = "–"
WIDE = 110  # columns; below, a terminal of 80 gets what fits
_STATE_STYLES = {"serving": "green", "starting": "yellow", "restarting": "red", "stopped": "red"}


def draw(
    status: dict[str, Any], *, width: int, demo: tuple[str, str] | None = None, events: Sequence[str] = ()
) -> RenderableType:
    """The whole picture for a terminal of `width` columns; `demo` is (address, file that holds its password)."""
    parts: list[RenderableType] = [
        _headline(status),
        servers_table(status, narrow=width < WIDE),
        _access_line(status),
        _addresses(status),
    ]
    refusals = [
        Text.assemble((" ! ", "bold white on red"), f" {s['name']} refuses mail: {s['smtp']['refusing']}")
        for s in status.get("servers", [])
        if s.get("smtp", {}).get("refusing")
    ]
    if together := status.get("totals", {}).get("in_one_zone"):
        parts.append(Text(f" ! {together} segments are in one zone alone, and are copied to another one that answers"))
    parts += refusals
    parts += [
        Text.assemble((" ! ", "bold white on red"), f" {line}") for line in broken_lines(status.get("servers", []))
    ]
    parts += [Text(f" {line}") for server in status.get("servers", []) for line in work_lines(server)]
    if demo is not None:
        parts.append(_try_it(status, demo))
    if events:
        parts.append(Text("\n".join(events), style="dim"))
    return Group(*parts)


def servers_table(status: dict[str, Any], *, narrow: bool = False) -> Table:
    """One row a server; of one that has several volumes with their sums, and below it one for each of them. `narrow`
    leaves out what fits no 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False, padding=(0, 1))
    for column in _COLUMNS:
        if not (narrow and column.wide_only):
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(column.title, justify=justify, no_wrap=not column.folds, overflow="fold")
    for server in _rows(status.get("servers", [])):
        smtp, sidecar = server.get(SMTP, {}), server.get(SIDECAR, {})
        cells = {c.title: c.cell(server, smtp, sidecar) for c in _COLUMNS if not (narrow and c.wide_only)}
        table.add_row(*cells.values())
    return table


def _rows(volumes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_host: dict[str, list[dict[str, Any]]] = {}
    for volume in volumes:
        by_host.setdefault(host_of(str(volume.get("name", DASH))), []).append(volume)
    rows: list[dict[str, Any]] = []
    for host, each in by_host.items():
        if len(each) > 1:
            rows.append(_together(host, each))
        rows += [{**volume, "name": f"  {volume.get('name')}"} for volume in each] if len(each) > 1 else each
    return rows


def _together(host: str, volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of a server with several volumes: sums of those that answer."""

    def total(process: str, *keys: str) -> dict[str, Any]:
        said = [volume.get(process, {}) for volume in volumes]
        values = {key: [s[key] for s in said if isinstance(s.get(key), int | float)] for key in keys}
        serving = sum(s.get("state") == "serving" for s in said)
        state = "serving" if serving == len(said) else f"{serving} of {len(said)} serve"
        return {"state": state, **{key: sum(found) for key, found in values.items() if found}}

    sidecar = total(SIDECAR, "lag_bytes", "under_replicated", "disk_free")
    segments = [s for volume in volumes if isinstance(s := volume.get(SIDECAR, {}).get("segments"), dict)]
    if segments:
        sidecar["segments"] = {key: sum(s.get(key, 0) for s in segments) for key in ("own", "mirrored")}
    smtp = total(SMTP, "sessions", "accepted", "accepted_per_second")
    return {"name": host, "listen": volumes[0].get("listen", DASH), SMTP: smtp, SIDECAR: sidecar}


def broken_lines(volumes: Sequence[dict[str, Any]]) -> list[str]:
    """Volumes that do not work, and why, while others of the same server do."""
    lines, works = [], {}
    for volume in volumes:
        processes = [volume.get(SMTP, {}), volume.get(SIDECAR, {})]
        works[str(volume.get("name"))] = all(p.get("state") == "serving" and not p.get("disk_error") for p in processes)
    for volume in volumes:
        name = str(volume.get("name"))
        others = [other for other in works if host_of(other) == host_of(name) and other != name and works[other]]
        if works[name] or not others:
            continue
        processes = [volume.get(SMTP, {}), volume.get(SIDECAR, {})]
        deaths = [p["last_death"] for p in processes if p.get("state") != "serving" and p.get("last_death")]
        said = [str(p["disk_error"]) for p in processes if p.get("disk_error")]
        said += [str(d.get("last_words") or d.get("how")).removeprefix("mailarray: ") for d in deaths]
        if said:
            lines.append(f"{name} is broken: {said[0]}; the other volumes of {host_of(name)} go on")
    return lines


def work_lines(server: dict[str, Any]) -> list[str]:
    """What is being moved between servers because of this one, each with how much is left and for how long."""
    lines = []
    for name, verb in (("rebuild", "gets back what its volume held"), ("drain", "drains"), ("copying", "copies")):
        work = server.get(SIDECAR, {}).get(name)
        if not isinstance(work, dict) or work.get("done"):
            continue
        left = f"{work.get('segments_left', DASH)} segments, {human_size(work.get('bytes_left'))} left"
        time = told(work.get("seconds_left"))
        why = work.get("waiting_for") or work.get("problem")
        if name != "copying" or work.get("segments_left") or why:
            lines.append(f"{server.get('name')} {verb}: {left}{f', {time}' if time else ''}{f'; {why}' if why else ''}")
    return lines


def plain_line(status: dict[str, Any]) -> str:
    """The array in one line, for logs."""
    totals = status.get("totals", {})
    servers = status.get("servers", [])
    serving = sum(1 for s in servers if s["smtp"]["state"] == "serving" and s["sidecar"]["state"] == "serving")
    hosts = len({host_of(str(server.get("name", ""))) for server in servers})
    what = "servers" if hosts == len(servers) else f"volumes of {hosts} servers"
    return (
        f"{serving}/{len(servers)} {what}, pop3 {status.get('access', {}).get('state', DASH)}, "
        f"accepted {totals.get('accepted', 0)} ({totals.get('accepted_per_second', 0):.0f}/s), "
        f"sessions {totals.get('sessions', 0)}, lag {human_size(totals.get('lag_bytes', 0))}, "
        f"under-replicated {totals.get('under_replicated', 0)}"
    )


def human_size(value: object) -> str:
    """Bytes for people."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return DASH
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _headline(status: dict[str, Any]) -> Text:
    ready = bool(status.get("ready"))
    totals = status.get("totals", {})
    return Text.assemble(
        (f" Mailarray {status.get('cluster', '')} ", "bold white on blue"),
        "  ",
        ("● ready" if ready else "● not all serving", "bold green" if ready else "bold yellow"),
        f"   each message on {status.get('copies', DASH)} servers",
        f"   {totals.get('accepted', 0):,} accepted, {totals.get('accepted_per_second', 0):,.0f}/s",
    )


def _access_line(status: dict[str, Any]) -> Text:
    access = status.get("access", {})
    state = str(access.get("state", DASH))
    catalog = next((s["sidecar"]["catalog"] for s in status.get("servers", []) if s["sidecar"].get("catalog")), None)
    return Text.assemble(
        ("pop3 ", "bold"), str(access.get("listen", DASH)), "  ", (state, _STATE_STYLES.get(state, "")),
        f"  {_figure(access, 'sessions')} sessions",
        ("   catalog ", "bold"), _catalog(catalog),
    )  # fmt: skip


def _addresses(status: dict[str, Any]) -> Text:
    urls = status.get("urls", {})
    return Text.assemble(
        ("status ", "bold"), str(urls.get("status", DASH)), ("   metrics ", "bold"), str(urls.get("metrics", DASH))
    )


def _catalog(catalog: object) -> str:
    if not isinstance(catalog, dict):
        return str(catalog) if catalog else DASH
    words = [str(catalog.get("state", DASH))]
    if catalog.get("open") is False:
        words.append("closed until all servers have registered")
    return ", ".join(words)


def _try_it(status: dict[str, Any], demo: tuple[str, str]) -> Panel:
    address, password_file = demo
    servers = status.get("servers", [])
    first = servers[0]["listen"] if servers else DASH
    pop3 = status.get("access", {}).get("listen", DASH)
    lines = (
        f"swaks --server {first} --to {address} --header 'Subject: hello'",
        f'curl -u "{address}:$(cat {password_file})" pop3://{pop3}/',
        f'curl -u "{address}:$(cat {password_file})" pop3://{pop3}/1',
    )
    return Panel(Text("\n".join(lines)), title="try it", title_align="left", box=box.ROUNDED, expand=False)


def _state(smtp: dict[str, Any], sidecar: dict[str, Any]) -> Text:
    states = [str(p.get("state", DASH)) for p in (smtp, sidecar)]
    text = states[0] if states[0] == states[1] else f"smtp {states[0]}, sidecar {states[1]}"
    worst = next((s for s in ("restarting", "stopped", "starting") if s in states), states[0])
    restarts = sum(int(p.get("restarts") or 0) for p in (smtp, sidecar))
    return Text.assemble((text, _STATE_STYLES.get(worst, "")), (f" ({restarts} restarts)" if restarts else "", "dim"))


def _mirrors(smtp: dict[str, Any]) -> Text:
    mirrors = smtp.get("mirrors")
    if not isinstance(mirrors, list) or not mirrors:
        return Text(DASH)
    text = Text()
    for i, mirror in enumerate(m for m in mirrors if isinstance(m, dict)):
        state = str(mirror.get("state", "?"))
        good = state.lower().replace("-", "").replace("_", "") in ("insync", "ok", "serving", "open")
        text.append(", " if i else "")
        text.append(f"{mirror.get('server', '?')} {state}", style="green" if good else "yellow")
    return text


def _segments(sidecar: dict[str, Any]) -> str:
    segments = sidecar.get("segments")
    if not isinstance(segments, dict):
        return DASH
    return f"{segments.get('own', DASH)} + {segments.get('mirrored', DASH)}"


def _warn_if_any(process: dict[str, Any], key: str) -> Text:
    value = process.get(key)
    return Text(_figure(process, key), style="bold red" if isinstance(value, int) and value > 0 else "")


def _figure(process: dict[str, Any], key: str, *, plain: bool = False) -> str:
    value = process.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return DASH
    return str(value) if plain else f"{value:,.0f}"


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], RenderableType]  # of (server, smtp, sidecar)
    right: bool = False
    folds: bool = False
    wide_only: bool = False


_COLUMNS = (
    _Column("server", lambda server, smtp, sidecar: Text(str(server.get("name", DASH)), style="bold")),
    _Column("smtp", lambda server, smtp, sidecar: str(server.get("listen", DASH)).rpartition(":")[2]),
    _Column("state", lambda server, smtp, sidecar: _state(smtp, sidecar), folds=True),
    _Column(
        "pids",
        lambda server, smtp, sidecar: f"{_figure(smtp, 'pid', plain=True)} {_figure(sidecar, 'pid', plain=True)}",
        wide_only=True,
    ),
    _Column("sessions", lambda server, smtp, sidecar: _figure(smtp, "sessions"), right=True),
    _Column("accepted", lambda server, smtp, sidecar: _figure(smtp, "accepted"), right=True),
    _Column("/s", lambda server, smtp, sidecar: _figure(smtp, "accepted_per_second"), right=True),
    _Column("mirrors", lambda server, smtp, sidecar: _mirrors(smtp), folds=True),
    _Column("segments", lambda server, smtp, sidecar: _segments(sidecar), right=True),
    _Column("lag", lambda server, smtp, sidecar: human_size(sidecar.get("lag_bytes")), right=True),
    _Column("under", lambda server, smtp, sidecar: _warn_if_any(sidecar, "under_replicated"), right=True),
    _Column("free", lambda server, smtp, sidecar: human_size(sidecar.get("disk_free")), right=True, wide_only=True),
)
