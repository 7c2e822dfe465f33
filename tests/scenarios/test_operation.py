"""What an operator does and looks at while the array runs: certificates, accounts, status, ports, users."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.access_certificates import write_certificate
from tests.support.array import DOMAIN, HOST, Array, account_line, wait_for
from tests.support.mail import CLIENT_SECONDS, message, send, wait_for_mail

RELOAD_SECONDS = 15.0  # bound; files are looked at about once a second
LISTENING = "0A"  # state of a socket in /proc/net/tcp
LOOPBACK = "0100007F"  # 127.0.0.1 as /proc/net/tcp writes it


def smtp_certificate(array: Array, index: int = 0) -> bytes:
    """The certificate that a server shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(HOST, array.smtp(index), timeout=CLIENT_SECONDS) as client:
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(binary_form=True) or b""


def test_a_new_certificate_is_shown_and_old_sessions_go_on(array: Array) -> None:
    before = smtp_certificate(array)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(HOST, array.smtp(0), timeout=CLIENT_SECONDS) as session:
        session.starttls(context=context)
        folder = array.data / "tls"
        owners = {path: path.stat() for path in folder.iterdir()}
        write_certificate(folder)
        for path, stat in owners.items():
            os.chown(path, stat.st_uid, stat.st_gid)
            path.chmod(stat.st_mode & 0o777)
        wait_for(lambda: smtp_certificate(array) != before, RELOAD_SECONDS, "the new certificate is shown")
        session.sendmail("sender@elsewhere.example", f"renewed@{DOMAIN}", message("over the old certificate"))
    wait_for_mail(array, f"renewed@{DOMAIN}", 1)


def test_a_broken_accounts_file_keeps_the_old_accounts(array: Array) -> None:
    path = array.data / "accounts"
    good = path.read_text()
    array.write_accounts(good, "no colon and no domain\n")
    broken = array.data / "servers" / "mail-1" / "log" / "smtp.log"
    wait_for(lambda: "no colon" in broken.read_text(), RELOAD_SECONDS, "the bad line is named in the log")
    send(array, 1, f"before@{DOMAIN}", message("with the old accounts"))
    wait_for_mail(array, f"before@{DOMAIN}", 1)

    array.write_accounts(good, account_line(f"new@{DOMAIN}"))

    def accepted() -> bool:
        try:
            send(array, 1, f"new@{DOMAIN}", message("to a new account"))
        except smtplib.SMTPRecipientsRefused:
            return False
        return True

    wait_for(accepted, RELOAD_SECONDS, "the new account is known")

    def readable() -> bool:
        login = array.cli("account", "list", "--data", str(array.data))
        return f"new@{DOMAIN}" in login.stdout

    assert readable()


def test_status_as_table_and_as_json(array: Array) -> None:
    url = f"http://{HOST}:{array.ports.status}"
    table = array.cli("status", "--url", url)
    assert table.returncode == 0, table.stderr
    for name in array.names:
        assert name in table.stdout
    answer = json.loads(array.cli("status", "--url", url, "-o", "json").stdout)
    assert answer["ready"] is True
    assert [server["name"] for server in answer["servers"]] == list(array.names)
    assert answer["totals"]["under_replicated"] == 0
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        metrics = response.read().decode()
    assert "mailarray_" in metrics

    away = array.cli("status", "--url", f"http://{HOST}:1")
    assert away.returncode != 0
    assert "Traceback" not in away.stdout + away.stderr


def test_every_server_tells_its_load(array: Array) -> None:
    def ask(index: int) -> dict[str, Any]:
        url = f"http://{HOST}:{array.ports.internal + 10 + index}/v1/load"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {array.token}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def measured(index: int) -> bool | None:
        return ask(index)["parts"]["loop"] > 0 or None

    for index, name in enumerate(array.names):
        report = ask(index)
        assert (report["server"], report["refusing"], report["shedding"]) == (name, None, 0.0)
        assert 0.0 <= report["load"] < 1.0
        # No process is without any work: one that is measured again and again says so.
        wait_for(partial(measured, index), RELOAD_SECONDS, f"{name} is measured")


def test_internal_ports_want_the_token(array: Array) -> None:
    inside = array.ports.internal
    ports = [inside + 30, *(inside + kind + i for kind in (10, 20) for i in range(3))]
    for port in ports:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {array.token}"}):
            for path in ("/v1/status", "/v1/load", "/metrics", "/v1/volume"):
                request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers=headers)
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(request, timeout=10)
                caught.value.close()
                assert caught.value.code in (401, 403), (port, path)


def test_everything_listens_on_loopback_alone(array: Array) -> None:
    listening = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            host, port = local.rsplit(":", 1)
            if state == LISTENING and int(port, 16) in array.all_ports():
                listening[int(port, 16)] = host
    assert sorted(listening) == sorted(array.all_ports())
    assert set(listening.values()) == {LOOPBACK}
    # Nothing else: no process of the array listens on a port that is not in the list.
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", array.smtp(0))) != 0


def test_a_server_cannot_open_the_volume_of_another(array: Array) -> None:
    if not array.isolated:
        pytest.skip("needs root and a Python that other users may run, for user ids of their own")
    script = "import os, sys\nfor path in sys.argv[1:]: os.listdir(path)\n"
    users = [array.volume(index).stat().st_uid for index in range(3)]
    groups = [array.volume(index).stat().st_gid for index in range(3)]
    assert len({*users, os.geteuid()}) == 4

    def look(index: int, path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, str(path)], user=users[index], group=groups[index], extra_groups=[],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    for one in range(3):
        for other in range(3):
            done = look(one, array.volume(other))
            assert (done.returncode == 0) == (one == other), done.stderr
            assert one == other or "PermissionError" in done.stderr
