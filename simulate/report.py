"""`report.html`: for each trace the strategies side by side, with plots. One file, no script, nothing to be loaded."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt

from mailarray_operator.mx import Strategy
from simulate.figures import Outcomes, summary
from simulate.model import Outcome

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1rem}td,th{padding:.2rem .8rem;
border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}.no{color:#b00020;font-weight:600}"""
COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "first attempts 421/451": lambda s: f"{s['firstAttemptsDeferred']:.3%}",
    "no connection": lambda s: f"{s['firstAttemptsWithoutConnection']:.3%}",
    "put off": lambda s: f"{s['putOff']:,}",
    "changes an hour": lambda s: f"{s['changesAnHour']:.0f}",
    "most of a server in 10 min": lambda s: str(s["mostChangesOfAServerInTenMinutes"]),
    "fewest names": lambda s: str(s["fewestTargets"]),
}


def html(outcomes: Outcomes, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; the same outcomes give the same text, but for the time that a plan took."""
    parts = ["<h1>MX by load: simulation</h1><h2>Figures</h2>", _figures(figures)]
    for by_strategy in outcomes.values():
        trace = next(iter(by_strategy.values())).trace
        parts.append(f"<h2>{escape(trace.title)}</h2>")
        parts.append(f"<p>{trace.seconds:.0f} s, {trace.servers} servers, seed {trace.seed}.</p>")
        parts.append(_table(by_strategy))
        parts.append(_plots(by_strategy))
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>MX by load: simulation</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['what'])}</td><td>{one['measured']:.4g}</td><td>{one['allowed']:.4g}</td>"
        + ("<td>yes</td></tr>" if one["holds"] else '<td class="no">no</td></tr>')
        for one in figures.values()
    )
    return f"<table><tr><th></th><th>measured</th><th>allowed</th><th>holds</th></tr>{rows}</table>"


def _table(by_strategy: Mapping[Strategy, Outcome]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("strategy", *COLUMNS))
    rows = ""
    for strategy, outcome in by_strategy.items():
        told = summary(outcome)
        cells = "".join(f"<td>{column(told)}</td>" for column in COLUMNS.values())
        rows += f"<tr><td>{strategy}</td>{cells}</tr>"
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _plots(by_strategy: Mapping[Strategy, Outcome]) -> str:
    with plt.rc_context({"svg.hashsalt": "mailarray", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3}):
        figure, grid = plt.subplots(
            3, len(by_strategy), figsize=(3.2 * len(by_strategy), 5.6), sharex=True, sharey="row", squeeze=False
        )
        for column, (strategy, outcome) in enumerate(by_strategy.items()):
            minutes = [sample.at / 60 for sample in outcome.samples]
            spread, deferred, changes = (grid[row][column] for row in range(3))
            loads = [sample.loads or [0.0] for sample in outcome.samples]
            spread.fill_between(minutes, [one[0] for one in loads], [one[-1] for one in loads], alpha=0.2, label="all")
            tenth = [(one[len(one) // 10], one[-1 - len(one) // 10]) for one in loads]
            spread.fill_between(minutes, [t[0] for t in tenth], [t[1] for t in tenth], alpha=0.4, label="8 of 10")
            spread.plot(minutes, [one[len(one) // 2] for one in loads], lw=1, label="median")
            if outcome.trace.slow:
                spread.plot(minutes, [sample.slow or 0.0 for sample in outcome.samples], lw=1, label="slow")
            spread.set_title(strategy)
            deferred.plot(minutes, [100 * sample.deferred for sample in outcome.samples], lw=1)
            changes.plot(minutes, [sample.changes for sample in outcome.samples], lw=1, drawstyle="steps-post")
            changes.set_xlabel("minutes")
        grid[0][0].set_ylabel("load of the servers")
        grid[0][0].legend(loc="lower right", fontsize=6)
        grid[1][0].set_ylabel("first attempts failed, %")
        grid[2][0].set_ylabel("changes so far")
        figure.tight_layout()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
