"""Mail in by swaks and smtp-source, out by curl, mpop, getmail6 and fetchmail: clients that people have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.array import DOMAIN, HOST, PASSWORD, Array
from tests.support.mail import SENDER, message, wait_for_mail

pytestmark = pytest.mark.debian
SECONDS = 60.0
LOAD = 500  # messages


def run(*command: str | Path, ok: tuple[int, ...] = (0,), stdin: str = "") -> str:
    """Run a client; answers what it printed."""
    program = shutil.which(str(command[0]), path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    assert program, f"{command[0]} is missing: tests/install-debian-packages"
    done = subprocess.run(
        [program, *command[1:]], input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode in ok, f"{command[0]}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def swaks(array: Array, index: int, to: str, subject: str, *more: str) -> str:
    """One message by swaks."""
    return run(
        "swaks", "--server", f"{HOST}:{array.smtp(index)}", "--from", SENDER, "--to", to,
        "--header", f"Subject: {subject}", *more,
    )  # fmt: skip


def swaks_to_all(array: Array, to: str) -> list[str]:
    """A message to each of the three servers, visible; answers their subjects."""
    subjects = [f"through {name}" for name in array.names]
    for index, subject in enumerate(subjects):
        swaks(array, index, to, subject)
    wait_for_mail(array, to, len(subjects))
    return subjects


def maildir(path: Path) -> list[str]:
    """The messages of a Maildir."""
    return [file.read_text() for folder in ("new", "cur") for file in (path / folder).iterdir()]


def private(path: Path, text: str) -> Path:
    """A settings file that only its owner may read, as these clients demand."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def assert_subjects(texts: list[str], subjects: list[str]) -> None:
    """Each subject once, and nothing else."""
    found = sorted(line[9:] for text in texts for line in text.splitlines() if line.startswith("Subject: "))
    assert found == sorted(subjects)


def test_curl_reads_what_swaks_sent_to_each_server(array: Array) -> None:
    subjects = swaks_to_all(array, f"curl@{DOMAIN}")
    url = f"pop3://{HOST}:{array.pop3}/"
    login = ("--silent", "--show-error", "--user", f"curl@{DOMAIN}:{PASSWORD}")
    assert len(run("curl", *login, url).splitlines()) == 3
    assert_subjects([run("curl", *login, f"{url}{n}") for n in (1, 2, 3)], subjects)
    run("curl", *login, "--request", "DELE", "--list-only", f"{url}2")
    assert len(run("curl", *login, url).splitlines()) == 2


def test_mpop_fetches_and_deletes(array: Array, tmp_path: Path) -> None:
    subjects = swaks_to_all(array, f"mpop@{DOMAIN}")
    for folder in ("new", "cur", "tmp"):
        (tmp_path / "mail" / folder).mkdir(parents=True)
    settings = private(
        tmp_path / "mpoprc",
        f"account default\nhost {HOST}\nport {array.pop3}\ntls off\nauth user\nuser mpop@{DOMAIN}\n"
        f'password "{PASSWORD}"\ndelivery maildir {tmp_path / "mail"}\nuidls_file {tmp_path / "uidls"}\nkeep off\n',
    )
    run("mpop", "--file", settings)
    assert_subjects(maildir(tmp_path / "mail"), subjects)
    wait_for_mail(array, f"mpop@{DOMAIN}", 0)


def test_getmail_fetches_once_though_it_deletes_nothing(array: Array, tmp_path: Path) -> None:
    subjects = swaks_to_all(array, f"getmail@{DOMAIN}")
    private(
        tmp_path / "getmailrc",
        f"[retriever]\ntype = SimplePOP3Retriever\nserver = {HOST}\nport = {array.pop3}\n"
        f"username = getmail@{DOMAIN}\npassword = {PASSWORD}\n"
        f"[destination]\ntype = MDA_external\npath = /usr/bin/tee\narguments = ('-a', '{tmp_path / 'mbox'}')\n"
        f"allow_root_commands = true\n[options]\nread_all = false\ndelete = false\n",
    )
    for _ in range(2):  # the second time it knows the unique ids
        run("getmail", "--getmaildir", tmp_path, "--rcfile", "getmailrc")
    assert_subjects([(tmp_path / "mbox").read_text()], subjects)


def test_fetchmail_hands_on_to_a_program(array: Array, tmp_path: Path) -> None:
    subjects = swaks_to_all(array, f"fetchmail@{DOMAIN}")
    settings = private(
        tmp_path / "fetchmailrc",
        f"poll {HOST} service {array.pop3} protocol pop3 auth password\n"
        f'  user "fetchmail@{DOMAIN}" password "{PASSWORD}" sslproto ""\n'
        f'  mda "cat >> {tmp_path / "mbox"}"\n  no keep\n',
    )
    run("fetchmail", "--fetchmailrc", settings, "--nosyslog", "--nodetach", "--pidfile", tmp_path / "pid")
    assert_subjects([(tmp_path / "mbox").read_text()], subjects)
    wait_for_mail(array, f"fetchmail@{DOMAIN}", 0)


def test_starttls_in_and_stls_out(array: Array) -> None:
    secure = ("--silent", "--show-error", "--ssl-reqd", "--cacert", array.data / "tls" / "tls.crt")
    run(
        "curl", *secure, "--mail-from", SENDER, "--mail-rcpt", f"tls@{DOMAIN}", "--upload-file", "-",
        f"smtp://localhost:{array.smtp(1)}/sender.example", stdin=message("secret").decode(),
    )  # fmt: skip
    wait_for_mail(array, f"tls@{DOMAIN}", 1)
    text = run("curl", *secure, "--user", f"tls@{DOMAIN}:{PASSWORD}", f"pop3://localhost:{array.pop3}/1")
    assert "Subject: secret" in text
    assert "with ESMTPS" in text


def test_500_messages_over_20_sessions_are_all_there(array: Array) -> None:
    run(
        "smtp-source", "-s", "20", "-m", str(LOAD), "-l", "4096", "-f", SENDER, "-t", f"load@{DOMAIN}",
        f"{HOST}:{array.smtp(2)}",
    )  # fmt: skip
    texts = wait_for_mail(array, f"load@{DOMAIN}", LOAD)
    assert len({text.split(b"\r\nMessage-Id: ", 1)[1].split(b"\r\n", 1)[0] for text in texts}) == LOAD
