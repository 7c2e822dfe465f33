"""The documents against what is there: files that they name, links between them, and replies that they quote.

A newcomer finds the place for a change by the tables of ARCHITECTURE.md, and the person on call finds a reply by its
text; both are worth nothing when the code has moved on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mailarray.mirroring import writer
from mailarray.model.message import Refused
from mailarray.smtp import replies
from mailarray_operator.plan import reasons

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "images/*.md", "bench/*.md")
    for path in ROOT.glob(pattern)
)
BASES = [ROOT, ROOT / "dataplane" / "mailarray", ROOT / "operator" / "mailarray_operator", ROOT / "bench"]
QUOTED = re.compile(r"`([^`\s]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
REPLY = re.compile(r"`(4\d\d 4\.\d\.\d [^`]+)`")


def names(document: Path) -> str:
    return str(document.relative_to(ROOT))


def is_there(name: str) -> bool:
    return any(any(base.glob(name)) for base in BASES)


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths_of_architecture() -> Iterator[str]:
    """Backticked paths in the tables, and files in the drawings."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for line in text.splitlines():
        if line.startswith("| "):
            yield from (word for word in QUOTED.findall(line) if re.fullmatch(r"[\w./*-]+(/|\.\w+)", word))
    for block in FENCE.findall(text):
        yield from re.findall(r"[\w/]+\.py", block)


def test_every_file_of_the_architecture_is_there() -> None:
    named = set(paths_of_architecture())
    assert len(named) > 150  # the tables are read at all
    assert [name for name in sorted(named) if not is_there(name)] == []


def test_every_package_has_a_row_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = [
        path.parent.name
        for base in ("dataplane/mailarray", "operator/mailarray_operator")
        for path in (ROOT / base).glob("*/__init__.py")
    ]
    assert [package for package in packages if f"`{package}/" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_module_that_is_named_is_there(document: Path) -> None:
    named = {word for word in QUOTED.findall(document.read_text()) if re.fullmatch(r"[\w/*]+\.py", word)}
    assert [name for name in sorted(named) if not is_there(name) and not any(ROOT.glob(f"**/{name}"))] == []


def test_replies_are_quoted_as_they_are_said() -> None:
    said = {f"{r.code} {r.status} {r.text}" for r in vars(replies).values() if isinstance(r, replies.Refusal)}
    said |= {f"{r.code} {r.status} {r.text}" for r in vars(writer).values() if isinstance(r, Refused)}
    quoted = {reply for document in DOCUMENTS for reply in REPLY.findall(document.read_text())}
    assert quoted
    assert [reply for reply in sorted(quoted) if not any(whole.startswith(reply) for whole in said)] == []


def test_the_person_on_call_finds_every_reply_that_sends_mail_away() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    told: list[replies.Refusal | Refused] = [
        r for r in vars(replies).values() if isinstance(r, replies.Refusal) and r.code in (421, 451, 452)
    ]
    told += [r for r in vars(writer).values() if isinstance(r, Refused)]
    assert [r.text for r in told if f"`{r.code} {r.status} {r.text.partition(',')[0]}" not in text] == []


def test_every_reason_that_asks_for_somebody_is_explained() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    warnings = [reason for reason, kind in reasons.EVENTS.items() if kind == "Warning"]
    assert [reason for reason in warnings if f"`{reason}`" not in text] == []


def test_limits_have_the_defaults_that_the_resource_has() -> None:
    crd = yaml.safe_load((ROOT / "crds" / "mailclusters.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    rows = re.findall(
        r"^\| `(spec\.[\w.]+)` \| ([^|]+) \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 15
    wrong = []
    for field, said in rows:
        node = schema
        for name in field.split("."):
            node = node.get("properties", {}).get(name, {})
        if not node or ("default" in node and node["default"] != [] and str(node["default"]) != said):
            wrong.append((field, said, node.get("default")))
    assert wrong == []


def test_constants_are_in_the_files_that_are_named() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| `[A-Z_]+`", line)]
    assert len(rows) > 10
    missing = []
    for row in rows:
        cells = row.split("|")
        files = [f for name in re.findall(r"`([\w/]+\.py)`", row) for f in (ROOT / "dataplane/mailarray").glob(name)]
        files = files or list((ROOT / "dataplane/mailarray").glob("**/*.py"))
        code = "\n".join(file.read_text() for file in files)
        missing += [name for name in QUOTED.findall(cells[1]) if not re.search(rf"^{name}\b.*=", code, re.MULTILINE)]
    assert missing == []
