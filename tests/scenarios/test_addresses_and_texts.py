"""Who gets a message, who is refused, and that a text comes back as it was sent."""

from __future__ import annotations

import poplib
import random
import smtplib

import pytest

from tests.support.array import DOMAIN, HOST, Array
from tests.support.mail import CLIENT_SECONDS, SENDER, message, payload, read, send, wait_for_mail

LARGE = 8 * 1024 * 1024  # bytes


def test_one_transaction_reaches_several_mailboxes(array: Array) -> None:
    people = [f"{name}@{DOMAIN}" for name in ("anna", "ben", "carla")]
    text = message("to three")
    send(array, 0, people, text)
    for person in people:
        (found,) = wait_for_mail(array, person, 1)
        assert payload(found) == text
        assert b"\tfor <" not in found  # none of them learns of the others
    volume = array.volume(0)
    done = array.cli("journal", "list", str(volume))
    assert done.stdout.count(",".join(people)) == 1, done.stdout


def test_aliases_and_postmaster_go_to_the_account(array: Array) -> None:
    for index, local in enumerate(("info", "Sales", "postmaster", "POSTMASTER")):
        send(array, index % 3, f"{local}@{DOMAIN}", message(f"for {local}"))
    with smtplib.SMTP(HOST, array.smtp(0), timeout=CLIENT_SECONDS) as client:  # RFC 5321 4.5.1: without a domain
        client.sendmail(SENDER, "postmaster", message("for the bare postmaster"))
    assert len(wait_for_mail(array, f"first@{DOMAIN}", 5)) == 5


def test_a_plus_tag_is_kept_off_the_mailbox_name(array: Array) -> None:
    send(array, 1, f"tagged+lists@{DOMAIN}", message("tagged"))
    (found,) = wait_for_mail(array, f"tagged@{DOMAIN}", 1)
    assert f"for <tagged+lists@{DOMAIN}>".encode() in found


@pytest.mark.parametrize("index", range(3))
def test_unknown_domains_and_recipients_are_refused_at_rcpt(array: Array, index: int) -> None:
    with smtplib.SMTP(HOST, array.smtp(index), timeout=CLIENT_SECONDS) as client:
        client.ehlo()
        client.mail(SENDER)
        code, text = client.rcpt("user@elsewhere.example")
        assert (code, text[:5]) == (550, b"5.1.2")
        code, text = client.rcpt(f"nobody@{DOMAIN}")
        assert (code, text[:5]) == (550, b"5.1.1")
        assert client.rcpt(f"anna@{DOMAIN}")[0] == 250  # the transaction goes on
        client.rset()


def test_8_mib_come_back_byte_for_byte(array: Array) -> None:
    source = random.Random(8)
    lines = (source.randbytes(38).hex() for _ in range(LARGE // 78))
    text = message("large", "\r\n".join(f".{line}" if line < "1" else line for line in lines) + "\r\n")
    assert len(text) > LARGE
    send(array, 2, f"bytes@{DOMAIN}", text)
    (found,) = wait_for_mail(array, f"bytes@{DOMAIN}", 1)
    assert payload(found) == text


def test_an_address_that_is_not_ascii(array: Array) -> None:
    text = message("Grüße", "Schöne Grüße.\r\n", to=f"grüße@{DOMAIN}")
    with smtplib.SMTP(HOST, array.smtp(1), timeout=CLIENT_SECONDS) as client:
        client.ehlo()
        client.sendmail(
            "müller@elsewhere.example", [f"grüße@{DOMAIN}"], text, mail_options=["SMTPUTF8", "BODY=8BITMIME"]
        )
    (found,) = wait_for_mail(array, f"grüße@{DOMAIN}", 1)
    assert payload(found) == text
    assert b"with UTF8SMTP" in found


def test_an_empty_mailbox_says_so_and_a_wrong_password_is_refused(array: Array) -> None:
    assert read(array, f"empty@{DOMAIN}") == []
    client = poplib.POP3(HOST, array.pop3, timeout=CLIENT_SECONDS)
    client.user(f"empty@{DOMAIN}")
    with pytest.raises(poplib.error_proto, match="AUTH"):
        client.pass_("wrong")
    client.close()
