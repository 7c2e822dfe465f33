"""The status of the whole array as one JSON object: what `/v1/status` and `mailarray status -o json` show. Pure.

Processes report what they know; keys that one does not report are absent or null here, never invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailarray.local.poller import Answer
from mailarray.local.render import RenderedArray
from mailarray.local.supervisor import ProcessState

SMTP, SIDECAR, ACCESS = "smtp", "sidecar", "access"


def array_status(
    array: RenderedArray, states: Mapping[str, ProcessState], answers: Mapping[str, Answer], now: float
) -> dict[str, Any]:
    """Shape: {cluster, ready, servers: [{name, listen, smtp, sidecar}], access, totals, urls}."""
    servers = []
    for settings in array.servers:
        name = settings.server
        servers.append(
            {
                "name": name,
                "listen": str(settings.smtp.listen),
                "hostname": settings.smtp.hostname,
                SMTP: _process(states.get(f"{name}/{SMTP}"), answers.get(f"{name}/{SMTP}"), now),
                SIDECAR: _process(states.get(f"{name}/{SIDECAR}"), answers.get(f"{name}/{SIDECAR}"), now),
            }
        )
    access = {
        "name": array.access.name,
        "listen": str(array.access.pop3),
        **_process(states.get(ACCESS), answers.get(ACCESS), now),
    }
    processes = [p for s in servers for p in (s[SMTP], s[SIDECAR])] + [access]
    return {
        "cluster": array.cluster,
        "copies": array.access.copies,
        "ready": all(isinstance(p, dict) and p["state"] == "serving" for p in processes),
        "servers": servers,
        "access": access,
        "totals": _totals(servers),
        "urls": {"status": f"http://{array.status}/", "metrics": f"http://{array.status}/metrics"},
    }


def _process(state: ProcessState | None, answer: Answer | None, now: float) -> dict[str, Any]:
    pid = state.pid if state else None
    word = "stopped" if pid is None else "starting" if answer is None else "serving"
    if pid is None and state is not None and state.last_death is not None:
        word = "restarting"
    shown: dict[str, Any] = {"state": word, "pid": pid, "restarts": state.restarts if state else 0}
    if state is not None and pid is not None:
        shown["uptime_seconds"] = round(now - state.started, 1)
    if state is not None and state.last_death is not None:
        shown["last_death"] = {"how": state.last_death.how, "last_words": state.last_death.last_words}
    if answer is not None and pid is not None:
        shown |= {k: v for k, v in answer.status.items() if k not in shown}
        if "accepted" in answer.status:
            shown["accepted_per_second"] = round(answer.accepted_per_second, 1)
    return shown


def _totals(servers: list[dict[str, Any]]) -> dict[str, Any]:
    def total(process: str, key: str) -> int | float:
        values: list[int | float] = [s[process][key] for s in servers if isinstance(s[process].get(key), (int, float))]
        return sum(values)

    segments = [s[SIDECAR].get("segments") for s in servers]
    # Each sidecar counts what the catalog knows or what it holds itself: the same segment is seen by several.
    under = [s[SIDECAR].get("under_replicated") for s in servers]
    together = [s[SIDECAR].get("in_one_zone") for s in servers]
    return {
        "accepted": total(SMTP, "accepted"),
        "accepted_per_second": total(SMTP, "accepted_per_second"),
        "sessions": total(SMTP, "sessions"),
        "pending": total(SMTP, "pending"),
        "segments": sum(g.get("own", 0) for g in segments if isinstance(g, dict)),
        "lag_bytes": total(SIDECAR, "lag_bytes"),
        "under_replicated": sum(u for u in under if isinstance(u, int)),
        "in_one_zone": sum(u for u in together if isinstance(u, int)),
    }
