"""Images, built from Dockerfiles without a daemon and put on the nodes without a registry.

`build` makes one from `images/<role>/Dockerfile` of the project (context: the work tree) or from a folder of
`tests/e2e/images` (context: that folder). Layers are buildah's, kept in the cache, so only what changed is made again.
`load` brings an image onto the nodes that do not have its content yet. Pods use `imagePullPolicy: Never`.

While a Dockerfile runs, the machine's certificates and a pip configuration are mounted into it: a build behind a
company's proxy works, and of it only two empty files stay in the image.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.box import base_image, cache
from tests.e2e.box.machine import REPOSITORY, BoxError, run
from tests.e2e.box.node import PAUSE, Node

PROJECT = REPOSITORY / "images"
TESTS = REPOSITORY / "tests" / "e2e" / "images"
BASE = "localhost/mailarray-box/base"
SECONDS = 1800
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_MOUNTED = "/run/box-certificates.crt"

# A pod's first process: holds its namespaces, reaps what is orphaned in them, and ends when it is told to.
_PAUSE_SOURCE = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, NULL, WNOHANG) > 0); }

int main(void) {
    struct sigaction ending = {.sa_handler = end};
    struct sigaction reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
    if (sigaction(SIGINT, &ending, NULL) || sigaction(SIGTERM, &ending, NULL) || sigaction(SIGCHLD, &reaping, NULL))
        return 1;
    for (;;) pause();
}
"""
_PAUSE_DOCKERFILE = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'


def name(role: str) -> str:
    """The name under which pods ask for a role's image."""
    return f"docker.io/mailarray/{role}:box"


def roles() -> list[str]:
    """All that can be built: the project's roles and the tests' own images."""
    return sorted(path.parent.name for top in (PROJECT, TESTS) for path in top.glob("*/Dockerfile"))


def build(role: str) -> str:
    """Build a role's image, and return its name; the caller holds the lock of images."""
    own = TESTS / role
    dockerfile = (own if own.exists() else PROJECT / role) / "Dockerfile"
    if not dockerfile.exists():
        raise BoxError(
            f"there is no image {role!r}: it would be built from {dockerfile}; there are {', '.join(roles())}"
        )
    _make(name(role), dockerfile, own if own.exists() else REPOSITORY, arguments={"BASE": base()})
    return name(role)


def base() -> str:
    """Debian's base system in buildah's storage: its name; the caller holds the lock of images."""
    tar = base_image.tarball()
    tagged = f"{BASE}:{tar.stem}"
    try:
        _buildah("inspect", "--type", "image", tagged)
    except BoxError:
        folder = cache.folder("build") / "base"
        folder.mkdir(exist_ok=True)
        shutil.copy(tar, folder / "base.tar")
        (folder / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["/bin/bash"]\n')
        cache.say("taking the base image into buildah's storage (once)")
        _make(tagged, folder / "Dockerfile", folder, arguments={})
        shutil.rmtree(folder)
    return tagged


def build_pause() -> str:
    """Build the image of each pod's first process."""
    folder = cache.folder("build") / "pause"
    folder.mkdir(exist_ok=True)
    source = folder / "pause.c"
    if not source.exists() or source.read_text() != _PAUSE_SOURCE or not (folder / "pause").exists():
        source.write_text(_PAUSE_SOURCE)
        run("gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-o", folder / "pause", source)
    (folder / "Dockerfile").write_text(_PAUSE_DOCKERFILE)
    _make(PAUSE, folder / "Dockerfile", folder, arguments={})
    return PAUSE


def load(image: str, nodes: Iterable[Node]) -> None:
    """Put a built image onto the nodes that do not have its content."""
    identity = _identity(image)
    archive = cache.folder("images") / f"{identity}.tar"
    for node in nodes:
        mark = node.folder / "images" / cache.digest(image)
        if mark.exists() and mark.read_text() == identity:
            continue
        if not archive.exists():
            making = archive.with_suffix(".making")
            making.unlink(missing_ok=True)
            _buildah("push", "--quiet", image, f"docker-archive:{making}:{image}")
            making.rename(archive)
        node.ctr("images", "import", "--local", archive)
        if mark.exists():  # kubelet's name for the content before this; without it containerd lets go of it
            node.ctr("images", "remove", f"sha256:{mark.read_text()}")
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(identity)
    archive.unlink(missing_ok=True)


def _make(image: str, dockerfile: Path, context: Path, *, arguments: dict[str, str]) -> None:
    log = cache.folder("build") / f"image-{dockerfile.parent.name}.log"
    log.unlink(missing_ok=True)
    words = ["bud", "--isolation", "chroot", "--layers", "--pull-never", "--format", "docker"]
    for key, value in arguments.items():
        words += ["--build-arg", f"{key}={value}"]
    if arguments:
        pip = cache.folder("build") / "pip.conf"
        pip.write_text("[global]\ndisable-pip-version-check = true\n")
        if _CERTIFICATES.exists():
            pip.write_text(pip.read_text() + f"cert = {_MOUNTED}\n")
            words += ["--volume", f"{_CERTIFICATES}:{_MOUNTED}:ro"]
        words += ["--volume", f"{pip}:/etc/pip.conf:ro"]
    words += ["--tag", image, "--file", str(dockerfile), str(context)]
    run(*_words(), *words, log=log, seconds=SECONDS)


def _identity(image: str) -> str:
    return _buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", image).strip()


def _buildah(*words: str) -> str:
    return run(*_words(), *words, seconds=SECONDS)


def _words() -> list[str]:
    root = cache.folder("containers")
    return ["buildah", "--storage-driver", "overlay", "--root", str(root / "storage"), "--runroot", str(root / "run")]
