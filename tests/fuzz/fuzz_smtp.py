"""Coverage-guided fuzzing of the SMTP line and DATA readers: `make fuzz`. Needs atheris, which no other part does.

The first byte chooses the piece size, and whether the bytes come as commands or as text; the same
bytes must give the same replies and messages whole and cut.
"""

from __future__ import annotations

import sys

START = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\n"


def one_input(data: bytes) -> None:
    """Raises AssertionError, or whatever the session should not have raised."""
    from tests.unit.smtp.dialog import Peer
    from tests.unit.smtp.doubles import text_of

    if not data:
        return
    size = data[0] % 32 + 1
    wire = START + (b"DATA\r\n" if data[0] & 32 else b"") + data[1:]
    results = []
    for pieces in ([wire], [wire[i : i + size] for i in range(0, len(wire), size)]):
        peer = Peer(auto_commit=True)
        for piece in pieces:
            peer.send(piece)
            assert len(peer.session._held) <= 2048
        peer.session.lost()
        assert peer.sink.open_writers == 0
        results.append((peer.output, [text_of(message) for message in peer.sink.messages], peer.closed))
    assert results[0] == results[1]


def main() -> None:
    """Run until stopped, or as libFuzzer's options say (`-max_total_time=60`)."""
    try:
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports():
        import mailarray.smtp.session  # noqa: F401
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
