"""Sends one message by SMTP and reads it by POP3, then deletes it. Exit code 0 when it came back whole."""

import os
import poplib
import smtplib
import sys
import time
import uuid

address, password = os.environ["ADDRESS"], os.environ["PASSWORD"]
smtp_host, pop3_host = os.environ["SMTP_HOST"], os.environ["POP3_HOST"]
deadline = time.monotonic() + float(os.environ["TIMEOUT_SECONDS"])
mark = uuid.uuid4().hex
message = f"From: {address}\r\nTo: {address}\r\nSubject: test {mark}\r\n\r\nThe array carries this line.\r\n"


def send() -> None:
    with smtplib.SMTP(smtp_host, int(os.environ["SMTP_PORT"]), timeout=10) as server:
        server.sendmail(address, [address], message)


def read() -> None:
    mailbox = poplib.POP3(pop3_host, int(os.environ["POP3_PORT"]), timeout=10)
    if "STLS" in mailbox.capa():
        mailbox.stls()
    mailbox.user(address)
    mailbox.pass_(password)
    count = mailbox.stat()[0]
    for number in range(count, max(0, count - 50), -1):
        lines = mailbox.retr(number)[1]
        if f"Subject: test {mark}".encode() in lines:
            assert lines[-1] == b"The array carries this line.", lines[-1]
            mailbox.dele(number)
            mailbox.quit()
            return
    mailbox.quit()
    raise LookupError(f"the message is not among the newest of {count}")


for name, step in (("sent", send), ("read", read)):
    while True:
        try:
            step()
            print(f"{name}: {mark}", flush=True)
            break
        except (OSError, smtplib.SMTPException, poplib.error_proto, LookupError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"not {name}: {error}")
            time.sleep(1)
