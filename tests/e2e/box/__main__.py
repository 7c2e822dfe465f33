"""`python -m tests.e2e.box up|down|shell|status|prepare|images`: the box for people."""

from __future__ import annotations

import os
import shlex
import sys

from tests.e2e.box import images, machine, network, volumes
from tests.e2e.box.box import Box, status
from tests.e2e.box.machine import BoxError

USAGE = """usage: python -m tests.e2e.box COMMAND
  up               have a cluster running
  down             remove it; the cache stays
  shell [COMMAND]  a shell, or a command, on its switch: KUBECONFIG is set, kubectl and helm are at hand, and names of
                   Services and pods resolve
  status           what runs
  prepare          make what is kept in the cache, and start nothing
  images [ROLE…]   build images and put them onto the nodes; all of them when none is named"""


def main(arguments: list[str]) -> int:
    match arguments:
        case ["up"]:
            box = Box()
            box.up()
            print("\n".join(status(box)))
        case ["down"]:
            Box().down()
        case ["shell", *command]:
            _shell(_running(), command)
        case ["prepare"]:
            try:
                Box().prepare()
            except BoxError as error:
                if str(error) != machine.why_not():
                    raise
                print(f"box: {error}", file=sys.stderr)  # no reason to fail: the tests skip, and say so
        case ["status"]:
            print("\n".join(status(Box())))
        case ["images", *roles]:
            print("\n".join(_running().load(*(roles or images.roles()))))
        case ["keep-volumes", *rest]:
            volumes.main(rest)
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


def _running() -> Box:
    box = Box()
    if not box.running():
        raise BoxError("no box is running: start one with `make box-up`")
    return box


def _shell(box: Box, command: list[str]) -> None:
    """Become a shell in the switch's namespace, with the cluster's DNS."""
    resolver = box.folder / "resolv.conf"
    resolver.write_text(
        f"nameserver {network.DNS_SERVICE}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n"
    )
    inner = shlex.join(command) if command else "bash --norc -i"
    script = f"mount --bind {shlex.quote(str(resolver))} /etc/resolv.conf; exec {inner}"
    words = [*box.enter_switch(), "unshare", "--mount", "sh", "-c", script]
    os.execvpe(words[0], words, {**os.environ, **box.environment(), "PS1": "box# "})


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BoxError as error:
        print(f"box: {error}", file=sys.stderr)
        sys.exit(1)
