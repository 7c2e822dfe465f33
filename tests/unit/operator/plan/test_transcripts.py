"""Stories of a cluster, one a file: what a person or a failure does, and below `----` what the operator makes of it.

Only what changed is listed, step by step (`1:` is the first step after the command). With MAILARRAY_REWRITE=1 the
transcripts are written anew; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailarray_operator.plan.decisions import Decisions
from tests.unit.operator.plan.world import QUIET, World

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
MAX_STEPS = 60


def describe(world: World) -> dict[str, str]:
    """Lines by what they are about."""
    lines: dict[str, str] = {}
    if world.table is not None:
        servers = (s.name + ("(Draining)" if s.draining else "") for s in world.table.servers)
        lines["table"] = f"table {world.table.generation}: {' '.join(servers)}"
    for group in world.groups.values():
        name = group.name
        lines[name] = f"{name}: spec.replicas {group.wanted}, StatefulSet {group.replicas} {group.drain}".rstrip()
        servers = group.status.get("servers", [])
        shown = (f"{s['name']} {s['phase']}" + (f" {s['progress']} %" if "progress" in s else "") for s in servers)
        lines[f"{name} servers"] = f"{name} servers: {', '.join(shown)}"
        for condition in group.status.get("conditions", []):
            text = f"{condition['type']}={condition['status']} {condition['reason']}: {condition['message']}"
            lines[f"{name} {condition['type']}"] = f"{name} {text}"
    for name, status in [("cluster", world.cluster_status), *world.pair_statuses.items()]:
        for condition in status.get("conditions", []):
            text = f"{condition['type']}={condition['status']} {condition['reason']}: {condition['message']}"
            lines[f"{name} {condition['type']}"] = f"{name} {text}"
        for pair in status.get("pairs", []):
            key = f"{pair['server']} -> {pair['mirror']}"
            lines[f"{name} {key}"] = f"{name} {key} {pair.get('state', '')}".rstrip()
    return lines


class Teller:
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.world = World()
        self.before: dict[str, str] = {}

    def tell(self, command: str) -> str:
        """What comes of one command."""
        verb, *words = command.split()
        if verb in ("step", "settle", "killed-after"):
            return self._steps(verb, words)
        getattr(self, f"_{verb.replace('-', '_')}")(*words)
        return ""

    def _steps(self, verb: str, words: list[str]) -> str:
        told: list[str] = []
        limit = {"step": int(words[0]) if words else 1, "settle": MAX_STEPS, "killed-after": 1}[verb]
        quiet = 0
        for number in range(1, limit + 1):
            state = self.world.state()
            decisions = self.world.step(int(words[0]) if verb == "killed-after" else None)
            lines = self._changes(decisions)
            told += [f"{number}: {line}" for line in lines]
            quiet = quiet + 1 if self.world.state() == state else 0
            if verb == "settle" and quiet == QUIET:
                break
        else:
            assert verb != "settle", "did not settle"
        return "".join(f"{line}\n" for line in told)

    def _changes(self, decisions: Decisions) -> list[str]:
        after = describe(self.world)
        changed = [line for key, line in after.items() if self.before.get(key) != line]
        gone = [f"no longer: {line}" for key, line in self.before.items() if key not in after]
        self.before = after
        changed += gone
        if decisions.restart is not None:
            changed.append(f"restart {decisions.restart}")
        changed += [f"growth {growth.claim} {growth.size}" for growth in decisions.growths]
        return changed + [f"event {e.type} {e.kind} {e.name} {e.reason}: {e.message}" for e in decisions.events]

    def _cluster(self, *words: str) -> None:
        for word in words:
            key, _, value = word.partition("=")
            if key == "copies":
                self.world.copies = int(value)
            elif key == "spread":
                self.world.spread = value
            elif key == "paused":
                self.world.paused = value == "true"
            else:
                raise AssertionError(word)

    def _group(self, name: str, replicas: str, zones: str = "a,b,c") -> None:
        self.world.group(name, int(replicas), tuple(zones.split(",")))

    def _scale(self, what: str, name: str, replicas: str) -> None:
        scale = {"mailserver": self.world.scale_mailserver, "statefulset": self.world.scale_statefulset}[what]
        scale(name, int(replicas))

    def _pair(self, name: str, source: str, *mirrors: str) -> None:
        self.world.pair(name, source, *mirrors)

    def _template(self, group: str, revision: str, broken: str = "") -> None:
        self.world.groups[group].revision = revision
        if broken:
            self.world.groups[group].broken |= {revision}

    def _size(self, group: str, size: str) -> None:
        self.world.groups[group].size = int(size)

    def _crash(self, pod: str) -> None:
        self.world.pods[pod].crashing = True

    def _recover(self, pod: str) -> None:
        self.world.pods[pod].crashing = False

    def _cut_off(self, server: str) -> None:
        self.world.lost_nodes.add(server)

    def _back(self, server: str) -> None:
        self.world.lost_nodes.discard(server)

    def _evictable(self, server: str, word: str) -> None:
        (self.world.not_evictable.discard if word == "yes" else self.world.not_evictable.add)(server)

    def _wipe(self, server: str) -> None:
        self.world.wipe(server)

    def _wait(self, seconds: str) -> None:
        self.world.tick(float(seconds))

    def _delete_cluster(self) -> None:
        self.world.cluster_there = False
        self.world.cluster_status = {}

    def _make_cluster(self) -> None:
        self.world.cluster_there = True

    def _secret(self, name: str, *keys: str) -> None:
        self.world.secrets[name] = None if keys == ("gone",) else frozenset(keys)

    def _database(self, word: str) -> None:
        self.world.database_ready = word == "ready"

    def _access(self, ready: str) -> None:
        self.world.access_ready = int(ready)

    def _new_operator(self) -> None:
        self.world.since = self.world.clock


def tell(text: str) -> str:
    """The transcript as it is now: commands kept, what follows `----` made anew."""
    teller, told = Teller(), []
    for block in text.strip().split("\n\n"):
        head, separator, _ = block.partition("\n----")
        said = ""
        for line in head.splitlines():
            if not line.startswith("#"):
                said += teller.tell(line)
        told.append(head + (f"\n----\n{said}" if separator else "\n"))
    return "\n".join(told)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    expected = path.read_text(encoding="utf-8")
    told = tell(expected)
    if os.environ.get("MAILARRAY_REWRITE"):
        path.write_text(told, encoding="utf-8")
        expected = told
    assert told == expected
