"""The mirroring table: which servers exist, and to which others each one copies its mail (patent, figure 5).

A table has a generation; a higher one replaces a lower one, never the other way round. Each server has
candidates in classes: the writer takes the next candidate of the best class in turn for each new segment.
Made by the launcher and the operator (`mirroring_ring.py`); read by writers, sidecars and access servers.

A server that is Draining takes no new mail and is offered to nobody as a mirror; it serves reads, and keeps what it
holds, until others hold it. Processes of two versions read the same table while a cluster rolls: what is absent has
its default, what is unknown is ignored.

As text it is JSON without blanks, in which rows name candidates by their places in the list of servers: the table of
1,500 servers has to fit a ConfigMap, which holds 1 MiB. A row may also hold names, as of a server that is not listed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailarray.contract.server_names import group_of, host_of

SERVING = "Serving"
DRAINING = "Draining"


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the array, as its peers reach it. One with several volumes stands here once for each of them."""

    name: str
    sidecar: str  # host:port of the catalog sidecar's internal port
    writer: str  # host:port of the smtp process' internal port
    zone: str = ""
    node: str = ""
    state: str = SERVING  # SERVING or DRAINING; a word of a later version counts as neither

    @property
    def group(self) -> str:
        """The MailServer that it belongs to."""
        return group_of(self.name)

    @property
    def host(self) -> str:
        """The server that it is a volume of: its own name, but for a further volume. Copies are never on one twice."""
        return host_of(self.name)

    @property
    def draining(self) -> bool:
        """Whether it is to be emptied."""
        return self.state == DRAINING

    @property
    def serving(self) -> bool:
        """Whether new mail and new copies may be brought to it."""
        return self.state == SERVING


@dataclass(frozen=True, slots=True)
class MirroringTable:
    """One generation of the mirroring table."""

    generation: int
    servers: tuple[Server, ...]
    rows: dict[str, tuple[tuple[str, ...], ...]]  # server -> classes of candidate mirrors, best class first

    def server(self, name: str) -> Server | None:
        """The server of that name, or None when the table does not know it."""
        return next((s for s in self.servers if s.name == name), None)

    def candidates(self, name: str) -> tuple[tuple[Server, ...], ...]:
        """Candidate mirrors of a server, in classes, best first; never a draining one, nor one on the same host; empty
        when it has no row."""
        own = host_of(name)
        by_name = {s.name: s for s in self.servers if s.serving and s.host != own}
        return tuple(tuple(by_name[m] for m in group if m in by_name) for group in self.rows.get(name, ()))


def dump(table: MirroringTable) -> str:
    """Render as JSON, the generation first."""
    places: dict[str, int] = {server.name: i for i, server in enumerate(table.servers)}
    servers = [
        {"name": s.name, "sidecar": s.sidecar, "writer": s.writer, "zone": s.zone, "node": s.node, "state": s.state}
        for s in table.servers
    ]
    rows = {n: [[places.get(name, name) for name in group] for group in groups] for n, groups in table.rows.items()}
    whole = {"generation": table.generation, "servers": servers, "rows": rows}
    return json.dumps(whole, separators=(",", ":"))


def parse(text: str) -> MirroringTable:
    """Parse what `dump` rendered. Raises ValueError with a sentence."""
    try:
        raw: Any = json.loads(text)
        servers = tuple(_server(s) for s in raw["servers"])
        rows = {n: tuple(_group(group, servers) for group in groups) for n, groups in raw["rows"].items()}
        return MirroringTable(int(raw["generation"]), servers, rows)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"not a mirroring table: {error}") from error


def _server(raw: Any) -> Server:
    """Raises KeyError or TypeError."""
    optional = {name: str(raw[name]) for name in ("zone", "node", "state") if name in raw}
    return Server(str(raw["name"]), str(raw["sidecar"]), str(raw["writer"]), **optional)


def _group(raw: Any, servers: tuple[Server, ...]) -> tuple[str, ...]:
    """Raises TypeError or IndexError."""
    return tuple(servers[one].name if isinstance(one, int) else str(one) for one in raw)


def load(path: str | Path) -> MirroringTable:
    """Read a table from a file. Raises ValueError or OSError."""
    return parse(Path(path).read_text(encoding="utf-8"))
