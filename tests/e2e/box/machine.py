"""What the box asks of the machine it runs on, and how it runs a command there.

`why_not` says in one sentence why a box cannot run here; tests skip with that sentence. `run` is the one way in which
the box calls short commands: a failure names the command and the last lines of what it said. Long-lived processes are
in `processes.py`.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = REPOSITORY / "tests" / "box-packages.txt"
LAST_LINES = 12  # enough to see an error and its context


class BoxError(Exception):
    """One sentence that says what is wrong and what to do, perhaps followed by the last lines of a log."""


def run(
    *command: str | Path,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
    log: Path | None = None,
) -> str:
    """Run a command to its end and return its standard output; with `log`, output goes there and "" is returned."""
    words = [str(word) for word in command]
    if not shutil.which(words[0]):
        raise BoxError(f"{words[0]} is not installed, or not in PATH: install it")
    environment = {**os.environ, **env} if env else None
    if log:
        with log.open("ab") as sink:
            done = subprocess.run(words, cwd=cwd, env=environment, stdout=sink, stderr=sink, timeout=seconds)
        if done.returncode:
            raise BoxError(f"`{' '.join(words[:4])} …` failed; the log is {log}, which ends with\n{tail(log)}")
        return ""
    finished = subprocess.run(
        words, input=stdin, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds
    )
    if finished.returncode:
        said = "\n".join((finished.stdout + finished.stderr).strip().splitlines()[-LAST_LINES:])
        raise BoxError(f"`{' '.join(words)}` failed:\n{said}")
    return finished.stdout


def tail(log: Path, lines: int = LAST_LINES) -> str:
    """The last lines of a log, indented."""
    if not log.exists():
        return "    (no log)"
    return "\n".join("    " + line[:300] for line in log.read_text(errors="replace").splitlines()[-lines:])


@functools.cache
def why_no_control_plane() -> str | None:
    """Why not even an API server can run here, or None."""
    if not shutil.which("go") and not shutil.which("kube-apiserver"):
        return "a Kubernetes of our own needs the Go compiler to build it: install Go 1.26, or set KUBECONFIG"
    return None


@functools.cache
def why_not() -> str | None:
    """Why a box cannot run on this machine, or None."""
    if os.geteuid() != 0:
        return "a Kubernetes of our own needs root: run as root, or set KUBECONFIG to a cluster for tests"
    if not shutil.which("apt-get"):
        return "a Kubernetes of our own needs Debian's apt-get: run on Debian 12, or set KUBECONFIG"
    if not any(line.split()[2] in ("cgroup", "cgroup2") for line in Path("/proc/mounts").read_text().splitlines()):
        return "a Kubernetes of our own needs cgroups mounted at /sys/fs/cgroup: mount them, or set KUBECONFIG"
    for flag, thing in (("--net", "network"), ("--mount", "mount")):
        if subprocess.run(["unshare", flag, "true"], capture_output=True).returncode:
            return f"a Kubernetes of our own needs {thing} namespaces, which this machine refuses: set KUBECONFIG"
    return why_no_control_plane()


def install_packages() -> None:
    """Install the Debian packages that the box calls, as `make test` does for its own."""
    run(REPOSITORY / "tests" / "install-debian-packages", PACKAGES, seconds=900)
