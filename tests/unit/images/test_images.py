"""What the Dockerfiles say against the rest of the project: entry points, user, paths. `make e2e` builds them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mailarray_operator.render import pod, statefulset_database

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "images"
ROLES = sorted(p.parent.name for p in IMAGES.glob("*/Dockerfile"))


def dockerfile(role: str) -> str:
    return (IMAGES / role / "Dockerfile").read_text()


def test_there_is_one_a_role() -> None:
    assert ROLES == ["dataplane", "operator", "postgresql"]


@pytest.mark.parametrize("role", ROLES)
def test_base_user_and_sources(role: str) -> None:
    text = dockerfile(role)
    assert "ARG BASE=docker.io/library/debian:bookworm-slim\n" in text
    assert "FROM ${BASE}" in text
    assert f"USER {pod.USER}:{pod.USER}\n" in text
    assert f"--uid {pod.USER} " in text
    for source in re.findall(r"^COPY (?!--from)(?:--chmod=0755 )?(\S+) ", text, re.MULTILINE):
        # The lock file of a role is made from pyproject.toml, by whoever changes its dependencies.
        assert (ROOT / source).exists() or source.endswith(".lock"), f"{role}: {source} is not there"


@pytest.mark.parametrize(("role", "script"), [("dataplane", "mailarray"), ("operator", "mailarray-operator")])
def test_entry_points_are_the_projects_own(role: str, script: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts[script].split(":")
    assert f"from {module} import {function}\n" in (IMAGES / role / script).read_text()
    assert f'ENTRYPOINT ["{script}"]' in dockerfile(role)


@pytest.mark.parametrize("role", ["dataplane", "operator"])
def test_dependencies_come_before_code_and_by_their_hashes(role: str) -> None:
    text = dockerfile(role)
    assert f"COPY requirements/{role}.lock" in text
    assert "--require-hashes" in text
    final = text.rsplit("\nFROM ", 1)[1]
    assert final.index("--from=dependencies") < final.index("--from=code")


def test_the_database_is_where_the_operator_mounts_it() -> None:
    text = dockerfile("postgresql")
    assert f"PGDATA={statefulset_database.DATA}/pgdata" in text
    assert f"SOCKET_DIRECTORY:-{statefulset_database.SOCKETS}" in (IMAGES / "postgresql" / "run-postgresql").read_text()
    assert f"POSTGRES_USER={statefulset_database.USER}" in text
    assert "STOPSIGNAL SIGINT" in text, "SIGTERM would wait for the last client"
