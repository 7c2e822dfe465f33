"""A real Kubernetes on one machine: three nodes, no Docker, no registry, no traffic to the outside.

For a person, as root on Debian 12 with Go:

    make box-up         three nodes in three zones; about 20 minutes the first time, 15 seconds from then on
    make box-shell      a shell inside: kubectl, helm, names of Services and pods resolve
    make box-down       everything is gone but the cache
    python -m tests.e2e.box images client server …      build images and put them onto the nodes
    make e2e            the tests; they use a running box, or start one and take it down

Beside the shell, the machine itself reaches the API server, pods and Services by plain routes; so `kubectl` with the
kubeconfig that `box-up` prints, or a mail client, works from anywhere on it.

For a test:

    tests/e2e/conftest.py    the fixtures `cluster` (this, or KUBECONFIG's) and `control_plane`
    Box                      up, down, cut, heal, kill and start a node, load images; end and start the API server,
                             PowerDNS and ExternalDNS
    bare                     an API server and a controller manager alone, in 3 seconds, without root

The parts, lowest first: `machine` (what the machine must have), `cache` (what is kept), `binaries` (Go modules),
`base_image` and `images`, `cgroups` and `processes` (what runs, and how it ends), `network`, `keys`, `control_plane`,
`node`, `addons` (DNS, storage class), `public_dns` (PowerDNS, ExternalDNS), `volumes`, `box`.
"""

from tests.e2e.box.box import Box
from tests.e2e.box.control_plane import bare
from tests.e2e.box.machine import BoxError, why_no_control_plane, why_not

__all__ = ["Box", "BoxError", "bare", "why_no_control_plane", "why_not"]
