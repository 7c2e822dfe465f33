"""Postfix: accepting alone, and delivering to Dovecot by LMTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.peers.dovecot_instance import DovecotInstance, dovecot_missing
from bench.peers.peer import Peer, System
from bench.peers.postfix_instance import PostfixInstance, postfix_missing
from bench.processes import free_port, running


class PostfixAccept(Peer):
    """Every message goes to the hold queue: cleanup fsyncs its file there and nothing else ever happens to it.

    That is the least Postfix can do for an accepted message; with `discard` behind the queue the queue manager
    and the delivery agents would take CPU from the receiving side.
    """

    name = "Postfix, accepted"
    counted = "accepted, in the hold queue"
    copies = 1

    def unavailable(self) -> str | None:
        return postfix_missing()

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[System]:
        port = free_port()
        postfix = PostfixInstance(
            directory, port, {"smtpd_recipient_restrictions": "check_recipient_access static:HOLD"}
        )
        with running(postfix.start(self.name)) as daemon:
            daemon.wait_for_port(port)

            def check(total: int) -> None:
                if (held := postfix.held()) != total:
                    raise RuntimeError(f"{held} messages are in the hold queue instead of {total}")

            yield System([port], [daemon], check)


class PostfixDovecot(Peer):
    """Postfix hands each message to Dovecot by LMTP over a UNIX socket; it counts when it is in the maildir."""

    name = "Postfix -> Dovecot"
    counted = "in the mailbox"
    copies = 1

    def __init__(self, settings: Mapping[str, str] | None = None, dovecot: Mapping[str, str] | None = None) -> None:
        self._settings = {
            # Twenty deliveries at once from the first message on; see the README for what else was tried.
            "lmtp_destination_concurrency_limit": "20",
            "lmtp_initial_destination_concurrency": "20",
            **(settings or {}),
        }
        self._dovecot = dovecot or {}

    def unavailable(self) -> str | None:
        return postfix_missing() or dovecot_missing()

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[System]:
        port = free_port()
        dovecot = DovecotInstance(directory / "dovecot", self._dovecot)
        transport = {"virtual_transport": f"lmtp:unix:{dovecot.socket}"}
        postfix = PostfixInstance(directory / "postfix", port, {**transport, **self._settings})
        with running(dovecot.start()) as store, running(postfix.start(self.name)) as daemon:
            dovecot.wait_for_socket(store)
            daemon.wait_for_port(port)
            before = dovecot.count()

            def wait(total: int) -> None:
                postfix.wait_until_empty()
                if (found := dovecot.count() - before) != total:
                    raise RuntimeError(f"{found} messages are in the mailboxes instead of {total}")

            yield System([port], [daemon, store], wait)
