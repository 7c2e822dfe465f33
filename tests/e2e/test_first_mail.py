"""What the README promises: helm install, kubectl apply, kubectl wait, a message in and out, from inside."""

from __future__ import annotations

import time

from tests.e2e.installation import ALICE, ALICES_PASSWORD, GROUP, Installation

MOST_SECONDS = 180.0
MPOP = """
defaults
auth user
tls off
account a
host example-access.mail.svc
port 110
user {user}
password {password}
delivery mbox /tmp/mbox
keep on
"""


def test_a_message_goes_in_and_out_within_three_minutes(installation: Installation) -> None:
    began = time.monotonic()
    subject = f"first {time.time_ns()}"
    said = installation.in_client(
        "swaks", "--server", "example-smtp.mail.svc", "--to", ALICE, "--from", "bob@elsewhere.example",
        "--header", f"Subject: {subject}",
    )  # fmt: skip
    assert "250 2.0.0 Ok: queued as" in said
    script = f"umask 077; rm -f /tmp/mbox; echo '{MPOP.format(user=ALICE, password=ALICES_PASSWORD)}' > /tmp/mpoprc; "
    installation.in_client("sh", "-c", script + "mpop --file=/tmp/mpoprc a && cat /tmp/mbox")
    assert subject in installation.in_client("cat", "/tmp/mbox")
    seconds = installation.seconds + time.monotonic() - began
    print(f"\nfrom helm install to a message read: {seconds:.0f} s")
    assert seconds < MOST_SECONDS


def test_helm_test_sends_and_reads(installation: Installation) -> None:
    said = installation.array.cluster.helm("test", "mailarray", "-n", installation.array.namespace, "--timeout=2m")
    assert "Succeeded" in said


def test_the_plugin_says_on_which_servers_a_message_is(installation: Installation) -> None:
    array, plugin = installation.array, installation.plugin
    array.wait_ready()
    assert "Ready" in plugin("status")
    assert f"{GROUP}-0" in plugin("servers")
    assert f"{GROUP}-0" in plugin("mirrors")
    said = installation.in_client("swaks", "--server", "example-smtp.mail.svc", "--to", ALICE, "--from", "b@c.example")
    identifier = said.split("queued as ")[1].split()[0]

    def on_two() -> bool:  # it is registered a moment after its 250
        located = plugin("locate", identifier)
        return sum(f"{GROUP}-{i}" in located for i in range(3)) >= 2

    array.wait_for(on_two, "the message is located on two servers", 30)
