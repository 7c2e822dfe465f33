"""Clients that people use, against the access server: curl, mpop, getmail6, fetchmail."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.support.access_fakes import MAILBOX, PASSWORD, FakeArray
from tests.support.certificates import write_certificate

pytestmark = pytest.mark.debian

MESSAGES = [
    b"From: bob@elsewhere.example\r\nTo: ann@mail.example\r\nSubject: one\r\nMessage-ID: <1@x.example>\r\n\r\n.dot\r\n",
    b"From: bob@elsewhere.example\r\nTo: ann@mail.example\r\nSubject: two\r\nMessage-ID: <2@x.example>\r\n\r\n"
    + b".a long line of text that fills the message\r\n" * 40_000,
    b"From: bob@elsewhere.example\r\nTo: ann@mail.example\r\nSubject: three\r\n\r\nno line end",
]


async def run(*command: str, home: Path, expect: int = 0) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == expect, (process.returncode, out[-500:], err[-2000:])
    return out


def unix(text: bytes) -> bytes:
    text = text.replace(b"\r\n", b"\n")
    return text if text.endswith(b"\n") else text + b"\n"


def texts(maildir: Path) -> set[bytes]:
    """The texts after the header, which clients add lines to."""
    return {unix(path.read_bytes()).split(b"\n\n", 1)[1] for path in (maildir / "new").iterdir()}


WANTED = {unix(m).split(b"\n\n", 1)[1] for m in MESSAGES}


def write_mda(home: Path) -> Path:
    """A delivery program: one file for each message."""
    mda = home / "mda"
    mda.write_text(f'#!/bin/sh\nexec cat > "{home}/Maildir/new/$$"\n')
    mda.chmod(0o700)
    return mda


@pytest.fixture
async def filled(array: FakeArray, tmp_path: Path) -> FakeArray:
    for i, body in enumerate(MESSAGES):
        array.deliver(body, on=((0, 1), (1, 2), (2, 0))[i])
    await array.start(tls=write_certificate(tmp_path))
    for folder in ("cur", "new", "tmp"):
        (tmp_path / "Maildir" / folder).mkdir(parents=True)
    return array


@pytest.mark.parametrize("tls", [False, True])
async def test_curl(filled: FakeArray, tmp_path: Path, tls: bool) -> None:
    url = f"pop3://localhost:{filled.port}"
    options = ["-sS", "--ipv4", "-u", f"{MAILBOX}:{PASSWORD}"]
    if tls:
        options += ["--ssl-reqd", "--cacert", str(tmp_path / "tls.crt")]
    listing = await run("curl", *options, url, home=tmp_path)
    assert listing.split() == f"1 {len(MESSAGES[0])} 2 {len(MESSAGES[1])} 3 {len(MESSAGES[2])}".encode().split()
    for number in (1, 2):
        assert await run("curl", *options, f"{url}/{number}", home=tmp_path) == MESSAGES[number - 1]
    await run("curl", *options, "-X", "DELE 1", "--head", url, home=tmp_path)
    assert len(filled.catalog.expunged) == 1
    await run("curl", "-sS", "--ipv4", "-u", f"{MAILBOX}:wrong", url, home=tmp_path, expect=67)


@pytest.mark.parametrize("tls", ["off", "on"])
async def test_mpop(filled: FakeArray, tmp_path: Path, tls: str) -> None:
    config = tmp_path / "mpoprc"
    config.write_text(
        f"""
        defaults
        tls {tls}
        tls_starttls on
        tls_trust_file {tmp_path / "tls.crt"}
        account a
        host localhost
        port {filled.port}
        user {MAILBOX}
        password {PASSWORD}
        auth {"user" if tls == "off" else "plain"}
        keep off
        pipelining on
        received_header off
        delivery maildir {tmp_path / "Maildir"}
        """
    )
    config.chmod(0o600)
    await run("mpop", "-C", str(config), "a", home=tmp_path)
    assert texts(tmp_path / "Maildir") == WANTED
    assert len(filled.catalog.expunged) == 3


async def test_getmail(filled: FakeArray, tmp_path: Path) -> None:
    (tmp_path / "getmail").mkdir()
    (tmp_path / "getmail" / "getmailrc").write_text(
        f"[retriever]\ntype = SimplePOP3Retriever\nserver = 127.0.0.1\nport = {filled.port}\n"
        f"username = {MAILBOX}\npassword = {PASSWORD}\n"
        # As root, getmail delivers into no Maildir, but hands on to a program when it is allowed to.
        f"[destination]\ntype = MDA_external\npath = {write_mda(tmp_path)}\nallow_root_commands = true\n"
        "[options]\nread_all = false\ndelete = false\nreceived = false\ndelivered_to = false\n"
    )
    for _ in range(2):  # the second run knows every UIDL already
        await run("getmail", "--getmaildir", str(tmp_path / "getmail"), home=tmp_path)
        assert texts(tmp_path / "Maildir") == WANTED
        assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 3


async def test_fetchmail(filled: FakeArray, tmp_path: Path) -> None:
    config = tmp_path / "fetchmailrc"
    config.write_text(
        f'poll localhost protocol pop3 port {filled.port} uidl user "{MAILBOX}" password "{PASSWORD}"'
        f' sslproto "" sslcertfile "{tmp_path / "tls.crt"}" mda "{write_mda(tmp_path)}" no keep no rewrite no stripcr\n'
    )
    config.chmod(0o600)
    await run("fetchmail", "-f", str(config), "--pidfile", str(tmp_path / "pid"), home=tmp_path)
    assert texts(tmp_path / "Maildir") == WANTED
    assert len(filled.catalog.expunged) == 3
